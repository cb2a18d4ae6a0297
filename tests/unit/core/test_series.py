"""Which models have series of their own."""

from affinity.series import DEFAULT_MODELS, OTHER, EveryModel, ModelLabels


def test_pinned_models_come_first_and_the_rest_is_other():
    labels = ModelLabels(["a", "b", "c", "d"], pinned=["d"], most=2)
    assert labels.names == ("d", "a")
    assert [labels.of(model) for model in ("a", "b", "c", "d", "unknown")] == ["a", OTHER, OTHER, "d", OTHER]


def test_two_processes_with_one_catalogue_make_the_same_choice():
    models = [f"m{number}" for number in range(10_000)]
    assert ModelLabels(models).names == ModelLabels(list(models)).names
    assert len(ModelLabels(models).names) == DEFAULT_MODELS


def test_without_a_bound_every_model_has_its_name():
    assert EveryModel().of("anything") == "anything"
