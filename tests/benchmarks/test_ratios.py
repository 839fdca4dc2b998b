"""Benchmark records beside each other."""

from tests.benchmarks.ratios import ratios, table


def record(commit, dense, sparse, share=None, dirty=False):
    def row(name, group, median, extra=None):
        return {"name": name, "group": group, "stats": {"median": median}, "extra_info": extra or {}}

    rows = [row("dense", "network", dense), row("sparse", "network", sparse)]
    rows += [row("counting", None, 3.0, {"share": share})] if share is not None else []
    return {
        "commit_info": {"id": commit, "dirty": dirty},
        "machine_info": {"saibench": {"instruction_set": "avx2"}},
        "benchmarks": rows,
    }


def test_a_ratio_is_to_the_first_of_its_group_in_the_same_run():
    assert ratios(record("a", 4.0, 1.0, share=0.02)) == {"dense": 1.0, "sparse": 0.25, "counting": 0.02}


def test_commits_stand_beside_each_other_and_what_one_did_not_measure_is_a_dash():
    lines = table([record("0123456789", 4.0, 1.0), record("abcdef0123", 8.0, 4.0, share=0.02, dirty=True)]).splitlines()
    assert [line.split() for line in lines] == [
        ["0123456", "abcdef0*"], ["avx2", "avx2"],
        ["dense", "1.000", "1.000"], ["sparse", "0.250", "0.500"], ["counting", "-", "0.020"],
    ]  # fmt: skip
