"""The rules of --metrics.fold. Which settings a flag sets is in test_cli.py."""

import pytest

from killsnoopd.settings import FOLD_NUMBERS, check_fold_rule


@pytest.mark.parametrize("rule", ["worker-*", "kworker/#:#", "*", "#", FOLD_NUMBERS])
def test_a_fold_rule(rule):
    assert check_fold_rule(rule) == rule


@pytest.mark.parametrize("rule", ["", "worker", "number", "worker-?"])
def test_not_a_fold_rule(rule):
    """It would match one name or none: the error says what to write."""
    with pytest.raises(ValueError, match="is not a rule: write a name with") as error:
        check_fold_rule(rule)
    assert repr(rule) in str(error.value)
