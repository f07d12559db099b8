"""The bench needs what the extra `train` installs."""

import pytest

for package in ("torch", "ase", "rdkit", "selfies", "vesin", "h5py", "lmdb"):
    pytest.importorskip(package)
