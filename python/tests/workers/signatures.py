"""A worker that says what its action takes and answers."""

import numpy as np

import ringmaster as rm


@rm.action(
    "embed",
    idempotent=True,
    inputs={"image": ((-1, -1, 3), "uint8"), "half": (4, "bfloat16"), "text": ((1,), str)},
    outputs={"embedding": ((2,), np.float32)},
)
def embed(request):
    """Answer with what it is said to answer."""
    return None, {"embedding": np.asarray([1, 2], "float32")}


rm.serve()
