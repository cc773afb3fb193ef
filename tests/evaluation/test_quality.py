"""Training time until a variant reaches the final quality of the plain network."""

import numpy as np
import pandas as pd

from scse.evaluation import time_to_quality


def curve(
    variant: str, dice: list[float], *, seconds: float = 10, seed: int = 0, network: str = "unet"
) -> pd.DataFrame:
    epochs = np.arange(1, len(dice) + 1)
    columns = {"network": network, "variant": variant, "seed": seed, "fold": 0, "epoch": epochs}
    return pd.DataFrame({**columns, "seconds": seconds * epochs, "loss": 0.1, "dice": dice})


def test_each_run_is_measured_against_the_last_epoch_of_its_own_plain_run() -> None:
    curves = pd.concat(
        [
            curve("none", [0.2, 0.7, 0.6]),
            curve("scse", [0.5, 0.6, 0.8], seconds=11),
            curve("none", [0.1, 0.2, 0.9], seed=1),
            curve("scse", [0.5, 0.6, 0.8], seed=1),
        ]
    )
    found = time_to_quality(curves).set_index(["variant", "seed"])
    assert found["target"].to_dict() == {("none", 0): 0.6, ("scse", 0): 0.6, ("none", 1): 0.9, ("scse", 1): 0.9}
    assert found.loc[("scse", 0), ["epoch", "seconds"]].tolist() == [2, 22]
    assert found.loc[("none", 0), ["epoch", "seconds"]].tolist() == [
        2,
        20,
    ]  # reaches its final quality before the last epoch
    assert found.loc[("none", 1), ["epoch", "seconds"]].tolist() == [3, 30]
    assert found.loc[("scse", 1), ["epoch", "seconds"]].isna().all()


def test_runs_without_a_plain_run_have_no_target() -> None:
    found = time_to_quality(pd.concat([curve("none", [0.5]), curve("scse", [0.6], network="sdnet")]))
    assert found["network"].tolist() == ["unet", "sdnet"]
    assert found[["target", "epoch", "seconds"]].isna().all(axis=1).tolist() == [False, True]


def test_no_curves_give_an_empty_table() -> None:
    found = time_to_quality(curve("none", []))
    assert found.empty
    assert found.columns.tolist() == ["network", "variant", "seed", "fold", "target", "epoch", "seconds"]
