"""What a plan says on the console."""

from collections.abc import Callable, Iterable, Iterator

from kdflow.needs import Found, Planned
from kdflow.reuse import Resolver


def lines(
    resolver: Resolver,
    plans: Iterable[Found | Planned],
    duration_estimator: Callable[[Planned], str],
) -> Iterator[str]:
    """A line per result, in the order in which they are needed; each once.

    Args:
        duration_estimator: of `estimate`.
    """
    shown: set[int] = set()

    def walk(plan: Found | Planned) -> Iterator[str]:
        if id(plan) in shown:
            return
        shown.add(id(plan))
        if isinstance(plan, Found):
            yield f"  found   {plan.result.words}"
            return
        for need in (*plan.later.values(), *plan.inputs.values()):
            yield from walk(resolver.plan(need))
        taught = ""
        if "teacher" in plan.later:
            yield "  export  the logits of that run"
            taught = ", from these logits"
        yield f"  {plan.step.verb:7} {plan.title}{taught}{duration_estimator(plan)}"

    for plan in plans:
        yield from walk(plan)
