"""The loss against torch's and MONAI's own, each switch, and class weights worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from datasets import save_prepared
from scse.data.prepared import IGNORED_CLASS
from scse.training.losses import (
    CrossEntropy,
    DeepSupervision,
    RegionLoss,
    SegmentationLoss,
    class_frequencies,
    fade_weights,
    have_ignored,
    lower_labels,
    median_frequency_weights,
    resolution_weights,
)
from scse.training.settings import Settings
from scse.training.setup import make_loss
from scse.training.task import Task

CLASSES = 4
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.0])


def batch(*axes: int) -> tuple[Tensor, Tensor]:
    """Logits (2, classes, *axes) and labels in which the last class never occurs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, *axes, generator=generator)
    return logits, torch.randint(0, CLASSES - 1, (2, *axes), generator=generator)


def dice_by_hand(logits: Tensor, labels: Tensor) -> float:
    """1 - mean soft Dice of the classes over the whole batch, written out."""
    p = logits.softmax(1).numpy()
    y = np.stack([(labels == k).numpy() for k in range(CLASSES)], 1)
    axes = (0, *range(2, p.ndim))
    dice = (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5)
    return float(1 - dice.mean())


@pytest.mark.parametrize("axes", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_plus_dice(axes: tuple[int, ...], weights: Tensor | None) -> None:
    logits, labels = batch(*axes)
    entropy = nn.functional.cross_entropy(logits, labels, weight=weights)
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True)(logits, labels[:, None])
    torch.testing.assert_close(SegmentationLoss("ce+dice", weights=weights)(logits, labels), entropy + dice)
    torch.testing.assert_close(SegmentationLoss("ce", weights=weights)(logits, labels), entropy)
    torch.testing.assert_close(SegmentationLoss("dice", weights=weights)(logits, labels), dice)
    assert dice.item() == pytest.approx(dice_by_hand(logits, labels), rel=1e-5)


@pytest.mark.parametrize("axes", [(6, 5), (4, 3, 5)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
def test_the_mean_for_gpus_is_that_of_torch(axes: tuple[int, ...], weights: Tensor | None, ignored: str) -> None:
    logits, labels = batch(*axes)
    labels[{"none": slice(0), "some": slice(1), "all": slice(2)}[ignored]] = IGNORED_CLASS
    entropy = CrossEntropy(weight=weights, ignore_index=IGNORED_CLASS)
    found, wanted = (logits.clone().requires_grad_() for _ in range(2))
    first, second = entropy.ordered_mean(found, labels), entropy(wanted, labels)
    torch.testing.assert_close(first, second, equal_nan=True)
    first.backward()
    second.backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_cross_entropy_written_out() -> None:
    logits, labels = batch(3, 3)
    chosen = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    expected = -(WEIGHTS[labels] * chosen).sum() / WEIGHTS[labels].sum()
    torch.testing.assert_close(SegmentationLoss("ce", weights=WEIGHTS)(logits, labels), expected)


@pytest.mark.parametrize("loss", ["ce+dice", "ce", "dice"])
def test_right_answers_cost_less_and_gradients_flow(loss: str) -> None:
    logits, labels = batch(4, 4)
    logits.requires_grad_()
    criterion = SegmentationLoss(loss)
    criterion(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    right = 20 * nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()
    # the class that never occurs has a Dice of its own smoothing
    assert criterion(right, labels) < 0.1 < criterion(logits, labels)


def test_median_frequency_weights_by_hand() -> None:
    # the median of 100, 20, 10, 5 and 1 is 10
    weights = median_frequency_weights(np.array([100, 20, 10, 5, 1]))
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.5, 1, 2, 10]))
    assert weights.dtype == torch.float32


def test_absent_classes_weigh_nothing_and_do_not_move_the_median() -> None:
    # the median of 90, 30 and 10 is 30; with the absent classes it would be 10
    weights = median_frequency_weights(np.array([90, 0, 30, 10, 0]))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 0, 1, 3, 0]))


def test_frequencies_count_all_slices_of_all_cases(task: Task) -> None:
    labels = np.concatenate([case.labels() for case in task.training])
    expected = [(labels == index).sum() for index in range(5)]
    assert class_frequencies(task.training, 5).tolist() == expected


def test_switches_of_the_settings(task: Task) -> None:
    weights = median_frequency_weights(class_frequencies(task.training, 3))
    both = make_loss(task, Settings(class_weights="median-frequency"))
    assert set(both.terms) == {"ce", "dice"}
    torch.testing.assert_close(both.terms["ce"].weight, weights)
    assert make_loss(task, Settings(class_weights="none")).terms["ce"].weight is None
    root = make_loss(task, Settings(class_weights="root-median-frequency")).terms["ce"].weight
    torch.testing.assert_close(root**2, weights)
    for plain in (both, make_loss(task, Settings(class_weights="none"))):
        before = plain.terms["ce"].weight
        fade_weights(plain, 0.5)
        assert plain.terms["ce"].weight is before
    assert set(make_loss(task, Settings(loss="dice")).terms) == {"dice"}
    assert set(make_loss(task, Settings(loss="ce")).terms) == {"ce"}


@pytest.mark.parametrize("deep", [False, True])
def test_by_default_class_weights_fade_from_those_of_the_paper_to_equal_ones(task: Task, deep: bool) -> None:
    weights = median_frequency_weights(class_frequencies(task.training, 3))
    loss = make_loss(task, Settings(deep_supervision=deep))
    entropy = next(part for part in loss.modules() if isinstance(part, CrossEntropy))
    memory = entropy.weight.data_ptr()
    for done, expected in ((0.0, weights), (0.5, weights.sqrt()), (1.0, torch.ones(3)), (0.0, weights)):
        fade_weights(loss, done)
        torch.testing.assert_close(entropy.weight, expected)
    # a recorded graph reads them where they were
    assert entropy.weight.data_ptr() == memory


@pytest.mark.parametrize("loss", ["ce+dice", "ce", "dice"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ignored_voxels_are_as_if_they_were_not_there(loss: str, weights: Tensor | None) -> None:
    logits, labels = batch(6, 5)
    labels[:, 4:] = IGNORED_CLASS
    logits.requires_grad_()
    criterion = SegmentationLoss(loss, weights=weights)
    value = criterion(logits, labels)
    torch.testing.assert_close(value, criterion(logits[:, :, :4], labels[:, :4]))
    value.backward()
    assert logits.grad is not None
    assert logits.grad[:, :, :4].abs().sum() > 0
    assert not logits.grad[:, :, 4:].any()


@pytest.mark.parametrize("loss", ["ce+dice", "ce", "dice"])
def test_a_batch_of_ignored_voxels_alone_teaches_nothing(loss: str) -> None:
    logits, labels = batch(4, 4)
    logits.requires_grad_()
    value = SegmentationLoss(loss, weights=WEIGHTS)(logits, labels.fill_(IGNORED_CLASS))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_ignored_voxels_the_loss_has_the_bits_of_torch_and_monai(layout: torch.memory_format) -> None:
    logits, labels = batch(32, 32)
    logits = logits.contiguous(memory_format=layout)
    entropy = nn.functional.cross_entropy(logits, labels, weight=WEIGHTS)
    dice = DiceLoss(softmax=True, to_onehot_y=True, batch=True)(logits, labels[:, None])
    for ignoring in (True, False):
        criterion = SegmentationLoss("ce+dice", weights=WEIGHTS, ignoring=ignoring)
        assert torch.equal(criterion(logits, labels), entropy + dice)


def resolutions(*sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, CLASSES, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize(
    "sizes", [[(16, 24), (8, 12), (4, 6)], [(8, 16, 24), (8, 8, 12), (4, 4, 6), (2, 2, 3)], [(12, 8), (4, 4), (1, 2)]]
)
def test_deep_supervision_is_that_of_nnunet(sizes: list[tuple[int, ...]]) -> None:
    wrapper = pytest.importorskip("nnunetv2.training.loss.deep_supervision").DeepSupervisionWrapper
    lower = pytest.importorskip("batchgeneratorsv2.transforms.utils.deep_supervision_downsampling")
    outputs, labels = resolutions(*sizes), batch(*sizes[0])[1]
    criterion = SegmentationLoss("ce+dice", weights=WEIGHTS)
    # as in nnUNetTrainer._build_loss
    weights = np.array([1 / 2**level for level in range(len(sizes))])
    weights[-1] = 0
    scales = [tuple(size / full for size, full in zip(each, sizes[0], strict=True)) for each in sizes]
    targets = list(lower.DownsampleSegForDSTransform(scales)._apply_to_segmentation(labels))
    expected = wrapper(criterion, (weights / weights.sum()).tolist())(outputs, targets)
    torch.testing.assert_close(DeepSupervision(criterion)(outputs, labels), expected)


def test_lower_labels_written_out() -> None:
    labels = np.arange(2 * 7 * 5).reshape(2, 7, 5)
    expected = labels[:, [2, 6]][:, :, [1, 3, 4]]  # the middles of 0-3, 4-6 and of 0-1, 2-3, 4
    assert lower_labels(torch.from_numpy(labels), (4, 2)).tolist() == expected.tolist()
    assert lower_labels(torch.from_numpy(labels), (1, 1)).tolist() == labels.tolist()


def test_logits_of_the_padding_are_not_supervised() -> None:
    outputs, labels = resolutions((8, 16), (4, 8), (2, 4)), batch(7, 9)[1]
    criterion = SegmentationLoss("ce")
    entropies = [
        criterion(outputs[0][:, :, :7, :9], labels),
        criterion(outputs[1][:, :, :, :5], labels[:, [1, 3, 5, 6]][:, :, [1, 3, 5, 7, 8]]),
    ]
    torch.testing.assert_close(DeepSupervision(criterion)(outputs, labels), (2 * entropies[0] + entropies[1]) / 3)


def test_resolutions_count_half_of_the_next_finer_one_and_the_lowest_none() -> None:
    assert resolution_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert resolution_weights(3) == pytest.approx([2 / 3, 1 / 3])


def test_deep_supervision_is_a_setting(task: Task) -> None:
    loss = make_loss(task, Settings(deep_supervision=True))
    assert isinstance(loss, DeepSupervision)
    assert set(loss.loss.terms) == {"ce", "dice"}


def test_ignored_voxels_have_no_frequency(task: Task, tmp_path: Path) -> None:
    assert not have_ignored(task.training)
    labels = np.array(task.training[0].labels())
    labels[0] = IGNORED_CLASS
    case = save_prepared(tmp_path / "case", np.array(task.training[0].images()), labels)
    expected = np.bincount(labels[1:].ravel(), minlength=3)
    assert class_frequencies([case], 3).tolist() == expected.tolist()
    assert have_ignored([*task.training, case])
    ignoring = Task([case], [], task.recipe, task.structures)
    assert make_loss(ignoring, Settings()).ignoring
    assert make_loss(ignoring, Settings(loss="dice")).ignoring
    assert not make_loss(task, Settings()).ignoring


MEMBERS = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
"""Which of three nested regions contains which class."""


def masks(labels: Tensor) -> Tensor:
    """Regions (N, 3, *axes) of labels (N, *axes), written out."""
    return torch.stack([labels >= 1, (labels == 2) | (labels == 3), labels == 2], 1).float()


def regions_batch(*axes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *axes, generator=generator), torch.randint(0, 4, (2, *axes), generator=generator)


@pytest.mark.parametrize("ignoring", [False, True])
@pytest.mark.parametrize("axes", [(6, 5), (4, 3, 5)])
def test_the_loss_of_regions_is_that_of_torch_monai_and_nnunet(axes: tuple[int, ...], ignoring: bool) -> None:
    logits, labels = regions_batch(*axes)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, masks(labels))
    dice = DiceLoss(sigmoid=True, batch=True)(logits, masks(labels))
    found = {loss: RegionLoss(loss, MEMBERS, ignoring=ignoring)(logits, labels) for loss in ("ce+dice", "ce", "dice")}
    torch.testing.assert_close(found["ce"], entropy)
    torch.testing.assert_close(found["dice"], dice)
    torch.testing.assert_close(found["ce+dice"], entropy + dice)
    options = {"batch_dice": True, "do_bg": True, "smooth": 1e-5, "ddp": False}
    theirs = DC_and_BCE_loss({}, options, dice_class=MemoryEfficientSoftDiceLoss)(logits, masks(labels))
    torch.testing.assert_close(found["ce+dice"], theirs + 1)  # their Dice is -Dice, not 1 - Dice


def test_ignored_voxels_do_not_count_in_the_loss_of_regions() -> None:
    logits, labels = regions_batch(8, 6)
    labels[:, :3] = IGNORED_CLASS
    changed = logits.clone()
    changed[:, :, :3] = 7
    for loss in ("ce", "dice", "ce+dice"):
        criterion = RegionLoss(loss, MEMBERS)
        expected = criterion(logits[:, :, 3:], labels[:, 3:])
        torch.testing.assert_close(criterion(changed, labels), expected)
    nothing = torch.full_like(labels, IGNORED_CLASS)
    assert RegionLoss("ce", MEMBERS)(logits, nothing) == 0


def test_a_task_of_regions_has_their_loss_and_no_class_weights(task: Task) -> None:
    regions = {"left": (3, 300), "right": (300,)}
    of_regions = Task(task.training, [], task.recipe, task.structures, regions=regions)
    loss = make_loss(of_regions, Settings())
    assert isinstance(loss, RegionLoss)
    assert loss.members.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert not loss.ignoring
    deep = make_loss(of_regions, Settings(deep_supervision=True, loss="dice"))
    assert isinstance(deep.loss, RegionLoss)
    assert deep.loss.names == ["dice"]
