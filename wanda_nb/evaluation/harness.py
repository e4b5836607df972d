"""A model as lm-eval's harness runs it, and its answers in a file, so that no question is asked twice."""

from __future__ import annotations

import hashlib
import json
import math
import string
from contextlib import contextmanager
from types import SimpleNamespace

from ..reporting.progress import progress_bar
from ..reporting.unfinished import Kept


def make_harness(model, tokenizer, batch_size: int):
    """lm-eval's wrapper around the model, with one progress bar that counts the tokens to be read."""
    from lm_eval.models.huggingface import HFLM

    class Harness(HFLM):
        def loglikelihood(self, requests, disable_tqdm=True):
            return super().loglikelihood(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, **settings):
            # choices that differ in their last token alone are read once
            inputs = {(*context, *choice[:-1]) for _, context, choice in requests}
            with progress_bar(total=sum(map(len, inputs)), desc="zero-shot", unit="token") as self.bar:
                return super()._loglikelihood_tokens(requests, disable_tqdm=True, **settings)

        def _model_call(self, inps, *args, **settings):
            self.before_batch()
            logits = super()._model_call(inps, *args, **settings)
            self.bar.update(min(inps.numel(), self.bar.total - self.bar.n))
            return logits

        def before_batch(self):
            """Does nothing until `remembering` replaces it."""

    return Harness(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


@contextmanager
def remembering(lm, path, of: dict):
    """lm, whose answers are stored in a file as they come; what the file answers is not asked again.

    of: identifies the model and tokenizer that answer. lm-eval's own cache is not used because it unpickles its file.
    """
    file = Kept(path, {"kept": "answers", **of}, _answer)
    known, ask = {key: (value, greedy) for key, value, greedy in file.values}, lm.loglikelihood

    def add(kind, question, answer) -> None:
        key = _key(question)
        if kind == "loglikelihood" and key not in known:
            known[key] = (float(answer[0]), bool(answer[1]))
            file.add([[key, *known[key]]])

    def loglikelihood(requests, **settings):
        new = [request for request in requests if _key(request.args) not in known]
        for request, answer in zip(new, ask(new, **settings) if new else [], strict=True):
            add("loglikelihood", request.args, answer)
        return [known[_key(request.args)] for request in requests]

    with file:
        lm.loglikelihood, lm.before_batch, lm.cache_hook = loglikelihood, file.sync, SimpleNamespace(add_partial=add)
        yield lm


def _key(question) -> str:
    """A sha256 of a context and a continuation."""
    return hashlib.sha256(json.dumps(list(question)).encode()).hexdigest()


def _answer(row) -> tuple[str, float, bool]:
    """Key, log-likelihood and whether the choice is greedy. Raises ValueError for anything else."""
    key, value, greedy = row
    if not isinstance(key, str) or len(key) != 64 or set(key) - set(string.hexdigits):
        raise ValueError
    if type(value) is not float or math.isnan(value) or type(greedy) is not bool:
        raise ValueError
    return key, value, greedy


def tokenizer_identity(tokenizer) -> str:
    """A sha256 over all that decides a tokenizer's tokens, without the padding and truncation set by the last call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {**json.loads(backend.to_str()), "padding": 0, "truncation": 0} if backend else tokenizer.get_vocab()
    kind = [type(tokenizer).__name__, tokenizer.special_tokens_map]
    return hashlib.sha256(json.dumps([kind, rules], default=str, sort_keys=True).encode()).hexdigest()
