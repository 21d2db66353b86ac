"""Named methods: each a short function that returns a :class:`holdfast.plan.Plan`.

>>> from holdfast.methods import gate_up, wise_ft
>>> (gate_up() | wise_ft(alpha=0.5)).name
'gate-up | wise-ft'

The same in text, as the command line takes it: ``plan(["gate-up", "wise-ft:alpha=0.5"])``.
Nothing here imports torch: a plan can be made, printed and checked before anything loads.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from holdfast.errors import ConfigError, PlanConflict
from holdfast.methods._registry import METHODS, Described, build, describe, published
from holdfast.methods._text import parse, split
from holdfast.methods.adapters import corda, lora_null, o_lora, oplora, osf
from holdfast.methods.anchored import ewc, l2_sp, mas, si, task_free
from holdfast.methods.delt import delt
from holdfast.methods.der import der
from holdfast.methods.dmt import dmt
from holdfast.methods.er import er, gss, mir
from holdfast.methods.expert_gates import expert_gates
from holdfast.methods.fpf import fpf, k_fpf
from holdfast.methods.gem import a_gem, gem
from holdfast.methods.gere import gere
from holdfast.methods.hft import hft
from holdfast.methods.keep import keep, random_words
from holdfast.methods.l2m import l2m
from holdfast.methods.lora import lora
from holdfast.methods.lwf import lwf
from holdfast.methods.merging import dare, sfa, slerp, task_arithmetic, ties
from holdfast.methods.mora import mora
from holdfast.methods.narrow import (
    bottom_freeze,
    down,
    first_n,
    full,
    full_llm,
    gate_up,
    last_n,
    mlp,
    projector,
    qkv,
    sa_proj,
    sa_proj_gate_up,
    train,
    vision,
    vo,
)
from holdfast.methods.power_law import power_law
from holdfast.methods.refresh import refresh
from holdfast.methods.reg_lora import reg_lora
from holdfast.methods.reinforcement import (
    auto_cei,
    grpo,
    on_policy_distill,
    remax,
    rif,
    rloo,
    self_sft,
)
from holdfast.methods.sapt import sapt
from holdfast.methods.scole import scole
from holdfast.methods.selfless import selfless
from holdfast.methods.sparcl import sparcl
from holdfast.methods.sparse_memory import sparse_memory
from holdfast.methods.token_weighted import eaft, talr
from holdfast.methods.two_experts import two_experts
from holdfast.methods.view_batch import view_batch
from holdfast.methods.wise_ft import wise_ft
from holdfast.plan import Plan

__all__ = [
    "METHODS",
    "Described",
    "a_gem",
    "auto_cei",
    "bottom_freeze",
    "corda",
    "dare",
    "delt",
    "der",
    "describe",
    "dmt",
    "down",
    "eaft",
    "er",
    "ewc",
    "expert_gates",
    "first_n",
    "fpf",
    "full",
    "full_llm",
    "gate_up",
    "gem",
    "gere",
    "grpo",
    "gss",
    "hft",
    "k_fpf",
    "keep",
    "l2_sp",
    "l2m",
    "last_n",
    "lora",
    "lora_null",
    "lwf",
    "mas",
    "method",
    "mir",
    "mlp",
    "mora",
    "o_lora",
    "on_policy_distill",
    "oplora",
    "osf",
    "plan",
    "power_law",
    "projector",
    "published",
    "qkv",
    "random_words",
    "refresh",
    "reg_lora",
    "remax",
    "rif",
    "rloo",
    "sa_proj",
    "sa_proj_gate_up",
    "sapt",
    "scole",
    "self_sft",
    "selfless",
    "sfa",
    "si",
    "slerp",
    "sparcl",
    "sparse_memory",
    "talr",
    "task_arithmetic",
    "task_free",
    "ties",
    "train",
    "two_experts",
    "view_batch",
    "vision",
    "vo",
    "wise_ft",
]


def method(text: str, **settings: object) -> Plan:
    """The plan of one method, by name or as text: ``gate-up``, ``lora:rank=8,scope=sa-proj``.

    Args:
        text: the name, with settings after a colon if any; ``last-4`` is ``last-n:n=4``.
        settings: further settings as Python values.

    Raises:
        UnknownName: no such method or setting; the message has the nearest one.
        ConfigError: a setting has a wrong type or value, is missing, or is given twice.
    """
    name, written = parse(text)
    entry = METHODS[name]
    twice = written.keys() & settings.keys()
    if twice:
        raise ConfigError(f"'{name}' was given the setting '{min(twice)}' twice.")
    return build(entry, {**written, **settings})


def plan(texts: str | Sequence[str]) -> Plan:
    """Several methods as one plan: ``plan(["mlp", "lwf"])``, or ``plan("mlp | lwf")``.

    Raises:
        ConfigError: no method is given, or a text cannot be read.
        PlanConflict: two methods fill the same exclusive slot; the message names both.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    parts = [part for text in given for part in split(text, "|")]
    if not parts:
        known = ", ".join(entry.name for entry in METHODS)
        raise ConfigError(f"no method was given; there is: {known}")
    names = [parse(part)[0] for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise PlanConflict(f"'{name}' is given {names.count(name)} times; give it once.")
    return functools.reduce(operator.or_, (method(part) for part in parts))
