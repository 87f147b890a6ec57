"""The fixtures: a user's test is two lines, fails readably, and takes its options."""

from __future__ import annotations

import re
from importlib.metadata import entry_points

import pytest
import torch._dynamo  # noqa: F401 -- before the runs within, which forget what they import

import verification.public  # noqa: F401

pytest_plugins = ["pytester"]

PLUGIN = "verification.pytest_plugin"
MINE = """
    import torch

    def relu(input, inplace=False):
        return torch.relu_(input) if inplace else torch.relu(input)

    def leaky(input, inplace=False):
        return torch.where(input > 0, input, 0.01 * input)

    def test_right(verify_op):
        verify_op(relu, like="relu", cases="easy")

    def test_wrong(verify_op):
        verify_op(leaky, like="relu", cases="easy")
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a user's test file; pytest knows the plugin, installed or not."""
    if not any(e.value == PLUGIN for e in entry_points(group="pytest11")):
        monkeypatch.setenv("PYTEST_PLUGINS", PLUGIN)
    pytester.makepyfile(MINE)
    return pytester


def test_a_right_op_passes_and_a_wrong_one_says_why(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("-W", "error")
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert re.search(r"E +AssertionError: relu easy, output float64: another function, error", text)
    assert re.search(
        r"repeat: python -m verification op test_\w+:leaky --like relu --case easy", text
    )
    assert "pytest_plugin.py" not in text  # the failure is shown where the test is


def test_a_page_is_written_for_each_report(run: pytest.Pytester) -> None:
    run.makepyfile(
        test_two="""
        import pytest
        import torch

        @pytest.mark.parametrize("dtype", ["float64", "float32"])
        def test_it(verify_op, dtype):
            for case in ("easy", "images"):
                verify_op(torch.tanh, like="tanh", cases=case, dtypes=[dtype])
    """
    )
    result = run.runpytest_inprocess("--verification-html=pages", "test_two.py")
    result.assert_outcomes(passed=2)
    names = [f"test_two.py-test_it-{d}{n}.html" for d in ("float32", "float64") for n in ("-2", "")]
    assert sorted(path.name for path in (run.path / "pages").iterdir()) == names
    assert "<html" in (run.path / "pages" / names[0]).read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("quick", None)),
        (["--verification-profile=full", "--verification-time-limit=2.5"], ("full", 2.5)),
    ],
)
def test_options_are_handed_on_and_a_test_may_say_otherwise(
    options: list[str], expected: tuple[str, float | None], run: pytest.Pytester
) -> None:
    run.makepyfile(
        test_options=f"""
        import torch

        def asked(report):
            return report.settings["profile"], report.settings["time_limit"]

        def test_op(verify_op):
            assert asked(verify_op(torch.tanh, like="tanh", cases="easy")) == {expected}
            assert asked(verify_op(torch.tanh, like="tanh", cases="easy", profile="quick",
                                   time_limit=9)) == ("quick", 9)

        def test_optimizer(verify_optimizer):
            found = verify_optimizer(torch.optim.SGD, like="SGD", cases="lr=0.1")
            assert asked(found) == {expected}
    """
    )
    run.runpytest_inprocess(*options, "test_options.py").assert_outcomes(passed=2)


def test_a_case_that_never_returns_fails(run: pytest.Pytester) -> None:
    run.makepyfile(
        test_slow="""
        def forever(input):
            while True:
                pass

        def test_slow(verify_op):
            verify_op(forever, like="tanh", cases="easy")
    """
    )
    result = run.runpytest_inprocess("--verification-time-limit=0.2", "test_slow.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*TimeLimitExceeded: more than 0.2 s*"])


def test_what_is_wrong_with_an_option_is_said(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("--verification-profile=fast")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--verification-profile*fast*"])


def test_all_fixtures_are_listed(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("--fixtures")
    for name in ("op", "optimizer", "function", "module"):
        result.stdout.fnmatch_lines([f"verify_{name} -- *"])
    result.stdout.fnmatch_lines(["compare_models -- *"])


@pytest.mark.parametrize("options", [[], ["-n", "1"]])
def test_pytest_and_its_workers_start_without_torch(
    options: list[str], run: pytest.Pytester
) -> None:
    run.makepyfile(
        test_light="""
        import sys

        def test_light(verify_op, compare_models):
            assert callable(verify_op)
            assert "torch" not in sys.modules
    """
    )
    run.runpytest_subprocess("test_light.py", *options).assert_outcomes(passed=1)
