"""The time that lookups may take: of one payer, and of all together."""

from killsnoopd.events.lookup_budget import LookupBudget


def spend(budget, payer, lookups, now_s, each_s=0.001, pause_s=0.0):
    """Try lookups one after the other; how many were allowed."""
    allowed = 0
    for _ in range(lookups):
        if budget.allows(payer):
            budget.charge(payer, each_s)
            now_s[0] += each_s
            allowed += 1
        now_s[0] += pause_s
    return allowed


def test_one_payer():
    """A payer has a burst, then half of the share; after a pause, another burst."""
    now_s = [1000.0]
    budget = LookupBudget(0.04, lambda: now_s[0])
    assert 95 <= spend(budget, 1, 1000, now_s) <= 110
    assert 180 <= spend(budget, 1, 10_000, now_s, pause_s=0.001) <= 220  # of ten seconds, 2 %
    now_s[0] += 1000
    assert spend(budget, 1, 50, now_s) == 50


def test_others_are_not_held_up():
    """While one payer is always over its limit, all lookups of another one are made."""
    now_s = [1000.0]
    budget = LookupBudget(0.04, lambda: now_s[0])
    refused = 0
    for _ in range(200):
        refused += 100 - spend(budget, 1, 100, now_s)
        assert spend(budget, 2, 1, now_s, pause_s=0.1) == 1
    assert refused > 15_000


def test_all_together():
    """Many payers share the whole."""
    now_s = [1000.0]
    budget = LookupBudget(0.04, lambda: now_s[0])
    allowed = sum(spend(budget, payer, 1, now_s, pause_s=0.001) for payer in range(10_000))
    assert 500 <= allowed <= 700  # of ten seconds, 4 %, and the burst
    assert len(budget._of_payer) <= 1024


def test_no_limit():
    """--events.rate=0 removes the limit."""
    budget = LookupBudget(None)
    assert spend(budget, 1, 5000, [0.0]) == 5000
