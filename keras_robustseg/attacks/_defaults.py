"""What an evaluation of robustness takes by default; the command line asks without TensorFlow."""

ATTACK_NAMES = ("pgd", "segpgd", "cospgd", "mifgsm", "sea", "alma_prox", "fmn", "dag")
DEFAULT_ATTACKS = ("segpgd", "cospgd", "alma_prox")
DEFAULT_EPS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
