"""The queue, the buttons and the folders of a WebUI, on a stand-in for its modules."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from lora_loop.core.config import BaseConfig, MemoryConfig
from lora_loop.core.errors import CheckpointError, HostChangedError
from lora_loop.core.events import PhaseStarted, StepDone

STEP = StepDone(step=3, steps=9, loss=0.5, lr=1e-4, images=3)


@pytest.fixture
def host(ours, monkeypatch):
    common = ours("webui_common")

    class OwnLoan(common.Loan):
        current, merged = True, True

        def live(self):
            return SimpleNamespace(facts=SimpleNamespace(name="model"))

        def is_current(self):
            return self.current

        def networks(self):
            return ()

        def take_out(self):
            self.merged = False

        def put_back(self):
            self.merged = True

    class Own(common.AutomaticHost):
        title = "WebUI"
        lent = OwnLoan()
        rests: ClassVar[list[bool]] = []  # whether LoRAs were out when the core looked again

        def loan(self):
            return self.lent

        def device(self):
            return "cpu"

        def loaded_checkpoint(self):
            return None

    @contextmanager
    def adopt(_live, _base, _memory, _device):
        rested = SimpleNamespace(rested=lambda: Own.rests.append(not Own.lent.merged))
        with Own.lent.plain():
            yield SimpleNamespace(loan=rested)

    monkeypatch.setattr(common, "adopt", adopt)
    return Own()


def borrow(host):
    return host.borrow(BaseConfig(checkpoint="a.safetensors"), MemoryConfig())


def test_the_queue_is_held_and_loras_are_out_while_the_model_is_lent(host, modules):
    lock = modules.call_queue.queue_lock
    with borrow(host):
        assert lock.locked()
        assert not host.lent.merged
        assert modules.shared.state.job == "LoRA Loop"
        with host.rest():
            assert not lock.locked()
            assert host.lent.merged
            assert modules.shared.state.job == ""
        assert lock.locked()
        assert not host.lent.merged
        assert host.rests == [True]
    assert not lock.locked()
    assert host.lent.merged
    assert modules.shared.state.job == ""


def test_all_is_given_back_after_an_error(host, modules):
    def fail():
        with borrow(host), host.rest():
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert not modules.call_queue.queue_lock.locked()
    assert host.lent.merged
    assert modules.shared.state.job == ""


@pytest.mark.parametrize("button", ["interrupted", "skipped", "stopping_generation"])
def test_the_buttons_stop_a_training_and_nothing_else(host, modules, button):
    setattr(modules.shared.state, button, True)
    assert not host.wants_stop()
    with borrow(host):
        assert not host.wants_stop()
        setattr(modules.shared.state, button, True)
        assert host.wants_stop()


def test_another_checkpoint_ends_the_training(host):
    def change():
        with borrow(host):
            with host.rest():
                host.lent.current = False
            assert host.wants_stop()

    with pytest.raises(HostChangedError, match="another checkpoint was chosen in WebUI"):
        change()


def test_the_hosts_progress_bar_moves_while_the_queue_is_held(host, modules):
    host.show(STEP)
    assert not hasattr(modules.shared.state, "sampling_step")
    with borrow(host):
        host.show(PhaseStarted(name="train", total=9))
        with host.rest():
            pass
        host.show(STEP)
        assert modules.shared.state.job_count == 1
        assert (modules.shared.state.sampling_step, modules.shared.state.sampling_steps) == (3, 9)


def test_others_see_only_what_was_opened(host, modules, tmp_path):
    assert host.folders().allowed is None
    modules.shared.cmd_opts.listen = True
    modules.shared.opts.data["lora_loop_folders"] = f"{tmp_path}/pictures\n\n"
    folders = host.folders()
    assert folders.allowed == (folders.networks, folders.data, Path(tmp_path, "pictures"))
    modules.shared.cmd_opts.enable_insecure_extension_access = True
    assert host.folders().allowed is None


@pytest.mark.parametrize(
    ("setting", "language"), [("None", "en"), ("zh_CN", "zh"), ("ja_JP", "en")]
)
def test_the_language_is_the_hosts(host, modules, setting, language):
    modules.shared.opts.localization = setting
    assert host.language() == language


def request_with(account):
    from fastapi import Request

    value = base64.b64encode(account.encode()).decode()
    headers = [(b"authorization", f"Basic {value}".encode())]
    return Request({"type": "http", "headers": headers})


def answer(coroutine):
    """Run it to its end in a thread of its own: a browser's tests leave their loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def test_the_api_asks_for_the_hosts_accounts(host, modules):
    from fastapi import HTTPException

    assert host.api_dependencies() == []
    modules.shared.cmd_opts.api_auth = "ann:a:b,bob:pass"
    check = host.api_dependencies()[0].dependency
    for account in ("ann:a:b", "bob:pass"):
        answer(check(request_with(account)))
    for account in ("ann:a", "bob:", "eve:pass"):
        with pytest.raises(HTTPException) as caught:
            answer(check(request_with(account)))
        assert caught.value.status_code == 401


def test_no_checkpoint_is_told_with_the_remedy(ours):
    error = ours("webui_common").no_checkpoint("Forge")
    assert isinstance(error, CheckpointError)
    assert str(error).startswith("Forge has no checkpoint loaded: choose one")


def test_only_text_of_the_metadata_is_taken(ours):
    common = ours("webui_common")
    assert common.text_metadata({"a": "b", "c": {"d": 1}, 3: "e"}) == {"a": "b", "3": "e"}
    assert common.text_metadata(None) == {}
