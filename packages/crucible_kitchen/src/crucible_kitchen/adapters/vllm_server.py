"""A running vLLM server, over its OpenAI-compatible HTTP API: what is sent, what comes back, what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from crucible_ir.errors import ConfigError, ConflictError, CrucibleError, NotFoundError, ServiceError

__all__ = ["Choice", "Completion", "VllmServer"]

M = TypeVar("M", bound=BaseModel)

_SAID = 400


class TokenScore(BaseModel):
    """What vLLM tells of a token at a position of the prompt."""

    logprob: float


class ChoiceLogprobs(BaseModel):
    """Log-probabilities of the sampled tokens."""

    token_logprobs: list[float]


class Choice(BaseModel):
    """One sampled sequence; ``prompt_logprobs`` has per position its tokens by id, None at the first."""

    model_config = ConfigDict(extra="ignore")

    index: int
    finish_reason: str | None
    token_ids: list[int]
    logprobs: ChoiceLogprobs | None = None
    prompt_logprobs: list[dict[int, TokenScore] | None] | None = None


class Completion(BaseModel):
    """The answer to a request for completions."""

    choices: list[Choice]


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Model]


class VllmServer:
    """A vLLM server at ``base_url`` (such as ``http://localhost:8000``); calls block the thread that makes them.

    Connections that cannot be made are tried again ``retries`` times.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout_s: float = 600.0, retries: int = 2
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = base_url
        self._client = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=timeout_s,
            transport=httpx.HTTPTransport(retries=retries, limits=httpx.Limits(max_connections=None)),
        )

    def longest(self, model: str) -> int | None:
        """Positions that a served model has, where the server tells.

        Raises:
            NotFoundError: no such model or adapter is served; the served ones are named.
            ServiceError: the server cannot be reached or answers with something else.
        """
        models = self._read(_Models, self._sent("GET", "/v1/models"), "/v1/models").data
        found = next((one for one in models if one.id == model), None)
        if found is None:
            raise NotFoundError(
                what=f"vLLM does not serve {model!r}",
                where=self._url,
                remedy=f"served are {', '.join(sorted(one.id for one in models)) or 'none'}",
            )
        return found.max_model_len

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """What the server answers to a body of ``/v1/completions``.

        Raises:
            ConfigError: the server refuses the request.
            NotFoundError: the model or adapter is not loaded.
            ServiceError: it cannot be reached, is overloaded or failed, or is too old to tell token ids.
        """
        return self._read(Completion, self._sent("POST", "/v1/completions", body), "/v1/completions")

    def load_adapter(self, name: str, folder: str) -> None:
        """Serve the peft adapter in ``folder``, a path on the server's machine, as ``name``.

        One of that name that is loaded already is left: names stand for content.

        Raises:
            ConfigError: the server does not load adapters while it runs, or cannot read this one.
            ServiceError: as ``complete``.
        """
        body = {"lora_name": name, "lora_path": folder}
        try:
            self._sent("POST", "/v1/load_lora_adapter", body)
        except NotFoundError as error:
            raise ConfigError(
                what="this vLLM server loads no adapters while it runs",
                where=self._url,
                remedy="start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            ) from error
        except (ConfigError, ConflictError) as error:
            if "already" not in str(error):
                raise

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no longer; one that is not loaded is no error."""
        try:
            self._sent("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except NotFoundError:
            return

    def close(self) -> None:
        """Give up the connections."""
        self._client.close()

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise self._later("vLLM did not answer in time") from error
        except httpx.HTTPError as error:
            raise self._later(f"vLLM cannot be reached ({type(error).__name__}: {error})") from error
        if response.is_error:
            raise self._explained(response)
        return response

    def _explained(self, response: httpx.Response) -> CrucibleError:
        status, said = response.status_code, response.text[:_SAID]
        if status in (401, 403):
            return ConfigError(
                what=f"vLLM refused the key ({said})", where=self._url, remedy="give its api_key"
            )
        if status == 404:
            return NotFoundError(what=f"vLLM answered: {said}", where=self._url, remedy="check the name")
        if status in (408, 429) or status >= 500:
            return self._later(
                f"vLLM answered with status {status} ({said})", response.headers.get("retry-after")
            )
        return ConfigError(what=f"vLLM refused the request ({said})", where=self._url, remedy="correct it")

    def _later(self, what: str, after: str | None = None) -> ServiceError:
        wait = float(after) if after is not None and after.isdecimal() else None
        remedy = "see the server's log, then try again"
        return ServiceError(what=what, where=self._url, remedy=remedy, retryable=True, retry_after_s=wait)

    def _read(self, kind: type[M], response: httpx.Response, path: str) -> M:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ServiceError(
                what=f"the answer of {path} is not what vLLM documents ({place}: {first['msg']})",
                where=self._url,
                remedy="use a vLLM that knows return_token_ids",
            ) from error
