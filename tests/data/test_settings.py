import pytest

from rmt_compress.data.settings import DataSettings
from rmt_compress.errors import DataError, SettingsError


def test_a_preset_stands_for_mean_and_std():
    # The numbers that torchvision's documentation gives for networks trained on ImageNet.
    pixels = DataSettings(mean="imagenet", size=224).pixels
    assert pixels.mean == (0.485, 0.456, 0.406)
    assert pixels.std == (0.229, 0.224, 0.225)
    assert (pixels.size, pixels.given) == (224, True)


def test_numbers_with_commas_between():
    assert DataSettings(mean=".5,.4,.3", std="2").pixels[:2] == ((0.5, 0.4, 0.3), (2.0,))
    assert DataSettings().pixels == ((0.0,), (1.0,), None, False)


def test_all_faults_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        DataSettings(mean="imagnet", std="0,1", size=0, sequence_length=1, seed=-1)
    message = str(caught.value)
    assert (
        "mean must be a number, numbers with commas between, or one of imagenet, cifar10, got 'imagnet'" in message
    )
    assert "std must be above 0, got 0,1" in message
    assert "size must be at least 1" in message
    assert "sequence-length must be at least 2" in message
    assert "seed must be 0 or more" in message


@pytest.mark.parametrize("mean", ["1,nan", "", "1,,2"])
def test_what_is_no_number(mean):
    with pytest.raises(SettingsError, match="mean must be a number"):
        DataSettings(mean=mean)


def test_channels_that_disagree():
    with pytest.raises(SettingsError, match="mean has 3 channels but std 2"):
        DataSettings(mean="cifar10", std="1,2")


@pytest.mark.parametrize(
    "settings",
    [
        DataSettings(),
        DataSettings(mean="cifar10"),
        DataSettings(mean="0.1", std="0.3"),
        DataSettings(std="0.25,0.5,1", size=32),
        DataSettings(size=7, seed=3),
    ],
)
def test_what_a_file_remembers_comes_back(settings):
    stored = settings.to_json()
    assert DataSettings.from_json(stored).pixels == settings.pixels
    assert DataSettings.from_json(stored).to_json() == stored


def test_nothing_is_remembered_that_was_not_said():
    assert DataSettings(seed=4, sequence_length=9).to_json() == {}


@pytest.mark.parametrize(
    "stored", [{"mean": 3}, {"size": "a"}, {"size": 0}, {"colour": 1}, {"mean": ["x"]}, [], {"std": [0.0]}]
)
def test_what_a_file_cannot_have_remembered(stored):
    with pytest.raises(DataError, match="remembers of its pixels"):
        DataSettings.from_json(stored)


def test_what_is_typed_wins_over_what_is_remembered():
    remembered = DataSettings(mean="cifar10", size=32)
    assert DataSettings(sequence_length=9).or_as(remembered) == DataSettings(
        mean="cifar10", size=32, sequence_length=9
    )
    typed = DataSettings(std="2", size=64).or_as(remembered)
    assert typed.pixels == ((0.0,), (2.0,), 64, True)
