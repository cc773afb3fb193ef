"""Print the folder of the trainers: `export nnUNet_extTrainer=$(python -m scse.nnunet)`."""

import sys

from scse.nnunet import folder

sys.stdout.write(f"{folder()}\n")
