"""What the tests of verification ask a report."""

from benchmark.data.verification import verify as verify_folder
from benchmark.tasks import find_task


def verify(task, root, **options):
    return verify_folder(find_task(task), root, **options)


def found(report, serious=None):
    return {(p.split, p.kind) for p in report.problems if serious in (None, p.serious)}


def where(report, kind):
    return [place for problem in report.problems if problem.kind == kind for place in problem.where]
