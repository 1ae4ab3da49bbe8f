# `make demo` and `make test` set everything up on a bare machine; the rest is for people who work on mtnet.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.made-from
LABEL_VENV := .venv-label
LABEL_PY := $(LABEL_VENV)/bin/python
LABEL_STAMP := $(LABEL_VENV)/.made-from
TRUST_VENV := .venv-trust
TRUST_STAMP := $(TRUST_VENV)/.made-from
PORT ?= 8000
APP ?= stock
PHANTOM_SEEDS ?= 20

export PYTHONHASHSEED := 0

.PHONY: help env label-env label test-older judges demo test check lint types layers unit soak bench bench-cuda gpu-pack bench-reading scoreboard score-phantoms verbs weights train-all train-status train-packed sbom audit niivue clean

help:
	@echo "make demo            environment, then the main job on a drawn chest CT study: no download of data, no GPU"
	@echo "make test            environment, lint, types, layers, tests"
	@echo "make check           the quick part of the tests"
	@echo "make bench           engine, runtimes, boxes, memory, studies against named peers, into benchmarks/RESULTS.md"
	@echo "make gpu-pack        what make bench-cuda and train-packed need on a machine without a network, into out/gpu-pack.tar.gz"
	@echo "make bench-cuda      gpu tests and benchmarks, in the unpacked pack on a machine with a CUDA device"
	@echo "make bench-reading   reading DICOM against other readers, into benchmarks/RESULTS.md"
	@echo "make scoreboard      irregular studies through mtnet and other readers, into docs/scoreboard.md"
	@echo "make verbs           every verb of MONAI's command on every bundle, into docs/verbs.md"
	@echo "make score-phantoms  sensitivity and false boxes on held-out phantoms"
	@echo "make weights         train the chest-CT bundle on drawn data (hours; goes on where it stopped)"
	@echo "make label           MONAI Label on a bundle: BUNDLE=name-or-folder STUDIES=folder-or-archive [APP=stock|mtnet] [PORT=8000]"
	@echo "make test-older      reading and writing with the older versions that MONAI Label needs"
	@echo "make train-all       every training of data/trainings.json in pieces, resumable; make train-status tells how far"
	@echo "make sbom            all software that make installs, as CycloneDX, into out/sbom.cdx.json"
	@echo "make audit           known vulnerabilities in it, against what was judged"
	@echo "make niivue          the viewer that report.html holds, from npm (needs node)"
	@echo "make train-packed    in the unpacked pack: the trainings whose images travelled in it"
	@echo "make soak            what is too long for make test"

env: $(STAMP)

# Made once; made again only when the exact versions change.
$(STAMP): constraints.txt setup.cfg
	@if [ ! -x $(PY) ] || ! cmp -s constraints.txt $(STAMP); then \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && \
		$(PY) -m pip install --quiet -c constraints.txt torch setuptools wheel && \
		$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[onnx,openvino,node,batch,ray,tensorboard,test,lint]'; \
	fi
	@$(PY) -c 'import torchvision' 2>/dev/null || { \
		SITE=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		cp environment/torchvision_on_cpu.py "$$SITE" && \
		echo 'import torchvision_on_cpu' > "$$SITE/torchvision_on_cpu.pth" && \
		$(PY) -c 'import torchvision'; \
	}
	@cp constraints.txt $(STAMP)

label-env: $(LABEL_STAMP)

# The older versions. What is listed is installed as it is: pip takes minutes to find that sam2, which MONAI Label
# declares and never imports here, fits nothing. torch comes with what it depends on, which differs between machines.
$(LABEL_STAMP): constraints-label.txt setup.cfg
	@if [ ! -x $(LABEL_PY) ] || ! cmp -s constraints-label.txt $(LABEL_STAMP); then \
		rm -rf $(LABEL_VENV) && $(PYTHON) -m venv $(LABEL_VENV) && \
		$(LABEL_PY) -m pip install --quiet -c constraints-label.txt torch setuptools wheel && \
		$(LABEL_PY) -m pip install --quiet --no-deps --no-build-isolation -r constraints-label.txt && \
		$(LABEL_PY) -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	@$(LABEL_PY) -c 'import torchvision' 2>/dev/null || { \
		SITE=$$($(LABEL_PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		cp environment/torchvision_on_cpu.py "$$SITE" && \
		echo 'import torchvision_on_cpu' > "$$SITE/torchvision_on_cpu.pth" && \
		$(LABEL_PY) -c 'import torchvision'; \
	}
	@cp constraints-label.txt $(LABEL_STAMP)

label: label-env
	@$(LABEL_PY) -m mtnet.hosts.label.start --app $(APP) --bundle "$(BUNDLE)" --studies "$(STUDIES)" --port $(PORT)

# Judges and peers that are no Python packages: a validator, an archive, senders and receivers, a browser.
judges:
	@command -v dciodvfy >/dev/null && command -v Orthanc >/dev/null && command -v storescu >/dev/null \
		&& command -v chromium >/dev/null \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			dicom3tools orthanc orthanc-dicomweb dcmtk chromium >/dev/null; }

demo: env
	@$(PY) -m mtnet demo --output out/demo

lint: env
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .

types: env
	@$(VENV)/bin/mypy

layers: env
	@$(VENV)/bin/lint-imports

unit: env label-env judges
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup

# What reads and writes, where versions differ most.
test-older: label-env judges
	@OMP_NUM_THREADS=1 $(LABEL_PY) -m pytest -n 2 tests/structures tests/io tests/results tests/hosts/test_label_parts.py

test: lint types layers unit test-older

check: env
	@$(PY) -m pytest -m "not slow and not study"

soak: env judges
	@$(PY) -m pytest --run-soak

bench: env
	@$(PY) -W ignore -m benchmarks.done --measure

gpu-pack: env
	@$(PY) -m benchmarks.gpu_pack out/gpu-pack.tar.gz

# No environment: python3 has torch there, and the wheels beside this file bring the rest.
bench-cuda:
	@if ls wheels/*.whl >/dev/null 2>&1; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target .site wheels/*.whl; fi
	@PYTHONPATH=.site:. $(PYTHON) -m pytest -m gpu -W default -p no:cacheprovider tests/inference/test_cuda.py
	@PYTHONPATH=.site:. $(PYTHON) -W ignore -m benchmarks.cuda

bench-reading: env
	@$(PY) -W ignore -m benchmarks.reading

scoreboard: env
	@$(PY) -W ignore -m benchmarks.scoreboard

score-phantoms: env
	@$(PY) -m mtnet.evaluation.phantom_score --bundle bundles/chest_ct_multitask --count $(PHANTOM_SEEDS)

verbs: env
	@$(PY) -W ignore -m benchmarks.verbs

weights: env
	@$(PY) -m monai.bundle run --config_file bundles/chest_ct_multitask/configs/train.json

train-all: env
	@$(PY) -W ignore -m mtnet.training.queue

# Like bench-cuda: in the unpacked pack, where python3 has torch.
train-packed:
	@if ls wheels/*.whl >/dev/null 2>&1; then \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target .site wheels/*.whl; fi
	@PYTHONPATH=.site:. $(PYTHON) -W ignore -m benchmarks.packed_sets

train-status: env
	@$(PY) -W ignore -m mtnet.training.queue --status

$(TRUST_STAMP): environment/trust/requirements.txt
	@rm -rf $(TRUST_VENV) && $(PYTHON) -m venv $(TRUST_VENV) && \
		$(TRUST_VENV)/bin/python -m pip install --quiet --no-deps -r environment/trust/requirements.txt
	@cp environment/trust/requirements.txt $(TRUST_STAMP)

sbom: env $(TRUST_STAMP)
	@$(TRUST_VENV)/bin/python environment/trust/sbom.py out/sbom.cdx.json

audit: $(TRUST_STAMP)
	@$(TRUST_VENV)/bin/python environment/trust/audit.py

# What is built is committed: nobody needs node to use mtnet.
niivue:
	@cd environment/niivue && npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent build

clean:
	rm -rf $(VENV) $(LABEL_VENV) $(TRUST_VENV) out build dist *.egg-info
