import torch

from rmt_compress.training.recent_inputs import RecentInputs


def test_the_last_batches_are_kept_and_no_more_than_make_up_the_count():
    recent = RecentInputs(5)
    for number, size in enumerate((3, 2, 2, 2)):
        recent.add(torch.full((size, 4), float(number)))
        assert recent.full == (number > 0)
    assert [batch[0, 0].item() for batch in recent] == [1, 2, 3]
    assert len(recent) == 3


def test_inputs_of_several_tensors_count_as_their_samples():
    recent = RecentInputs(4)
    for _ in range(3):
        recent.add({"ids": torch.zeros(2, 7), "mask": torch.ones(2, 7)})
    assert len(recent) == 2
    assert [len(batch["ids"]) for batch in recent] == [2, 2]
