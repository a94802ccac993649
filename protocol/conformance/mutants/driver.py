"""The driver of a Python client with a mistake: driver.py MISTAKE."""

import importlib.util
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import mutants  # noqa: E402

if __name__ == "__main__":
    mutants.plant(sys.argv[1])
    path = pathlib.Path(__file__).resolve().parents[2] / "clients/python/driver.py"
    spec = importlib.util.spec_from_file_location("python_driver", path)
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    driver.say("driver", 1, language=sys.argv[1], features="fork,connects")
    driver.Driver().serve()
