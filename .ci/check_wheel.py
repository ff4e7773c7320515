"""Check that the package comes from the given environment, with everything it has to carry."""

import sys
from pathlib import Path

import keras_robustseg
from keras_robustseg.recipes import list_recipes

package = Path(keras_robustseg.__file__).resolve().parent
if not package.is_relative_to(Path(sys.argv[1]).resolve()):
    sys.exit(f"the package was imported from {package}, not from the wheel in {sys.argv[1]}")
carried = ("py.typed", "_recipes/quickstart.yaml", "data/fixtures/lidc_nodules.npz")
missing = [name for name in carried if not (package / name).is_file()]
if missing or len(list_recipes()) < 6:
    sys.exit(f"the wheel lacks {missing}, or recipes: it has {sorted(list_recipes())}")
print(f"from the wheel: {package}")
