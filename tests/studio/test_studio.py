"""The studio as it is used: a server in a process of its own, and Chromium in front of it."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'bayes-persona[studio]'")

from bayes_persona.cli import main
from bayes_persona.studio import sitting
from tests.studio import browser

needs_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    out = tmp_path_factory.mktemp("studio")
    command = [sys.executable, "-m", "bayes_persona.cli", "studio", "--port", "0"]
    with (out / "terminal.txt").open("w") as terminal:
        server = subprocess.Popen(
            [*command, "--no-browser", "--out", str(out / "people")], stdout=terminal, stderr=terminal
        )
    try:
        until = time.monotonic() + 90
        while not (url := re.search(r"http://\S+?:(\d+)", (out / "terminal.txt").read_text())):
            assert server.poll() is None, (out / "terminal.txt").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        yield out / "people", url.group(0), int(url.group(1))
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert not (out / "people" / "uploads").exists()


def answer(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as found:
            return found.status, dict(found.headers)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, {}


def test_it_listens_on_this_machine_alone(studio):
    _, _, port = studio
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("no /proc here")
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and int(row[1].partition(":")[2], 16) == port]
    assert listening == [f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}:{port:04X}"]


def test_answers_forbid_the_browser_to_load_anything_from_elsewhere(studio):
    _, url, _ = studio
    status, headers = answer(url)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]


def test_a_name_that_somebody_else_gave_this_machine_is_refused(studio):
    _, url, _ = studio
    assert answer(url, Host="evil.example")[0] == 400


def test_files_of_the_machine_are_not_served(studio):
    people, url, _ = studio
    for path in ("/etc/passwd", str(people.parent / "terminal.txt"), f"{people}/../terminal.txt"):
        assert answer(f"{url}/gradio_api/file={path}")[0] in (403, 404), path


def test_another_address_is_warned_of_and_a_port_in_use_is_one_sentence(studio, tmp_path, capsys):
    _, _, port = studio
    arguments = ["studio", "--host", "0.0.0.0", "--port", str(port), "--no-browser", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "bayes_persona.cli", *arguments], capture_output=True, text=True)
    assert "Warning: 0.0.0.0 is not this machine alone." in " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "give another --port" in " ".join(done.stderr.split())
    with pytest.raises(SystemExit):
        main(["studio", "--port", "70000"])
    assert "port: expected 0 to 65535" in "".join(capsys.readouterr())


@needs_chromium
def test_somebody_is_learned_turned_and_taken_along_in_a_browser(studio, tmp_path):
    people, url, _ = studio
    _, files, _ = sitting.somebody(tmp_path / "files", 1, photographs=2)
    with browser.Browser(tmp_path / "profile") as chromium:
        chromium.open(url)
        chromium.wait("document.querySelector('#photos input[type=file]') != null")
        chromium.press("Learn")
        chromium.wait("document.querySelector('.problem')?.innerText.includes('there are none')")
        chromium.give("#photos input[type=file]", files)
        chromium.wait("document.querySelector('#given svg') != null")
        chromium.press("More")
        chromium.wait("document.querySelector('#sampling input[type=number]') != null")
        for name, number in (("particles", 2), ("steps", 2), ("sampling", 2)):
            chromium.write(f"#{name} input[type=number]", str(number))
        chromium.press("Learn")
        chromium.wait("document.querySelector('.track') != null")
        chromium.wait(
            "document.querySelector('.verdict') != null && document.querySelector('#pictures figure svg') != null"
        )
        assert chromium.js("document.querySelectorAll('#pictures figure svg').length") == 2
        chromium.write("#guidance input[type=number]", "6")
        chromium.press("Show")
        chromium.wait("document.querySelectorAll('#pictures figure svg').length == 3")
        chromium.press("Take along")
        chromium.wait("document.querySelector('#files')?.innerText.includes('personalization')")
        link = chromium.js(
            "[...document.querySelectorAll('#files a')].map(one => one.href).find(one => one.includes('soup'))"
        )
        assert answer(link)[0] == 200
        chromium.press("Report")
        chromium.wait("document.querySelector('iframe.report')?.srcdoc.includes('A posterior over one man')")
        elsewhere = [one for one in chromium.asked_for if not one.startswith((url, "data:", "blob:", "about:"))]
        assert elsewhere == []
    folder = next(path for path in people.iterdir() if path.name.startswith("man-"))
    assert {"photos", "index.html", "personalization.safetensors"} <= {path.name for path in folder.iterdir()}
