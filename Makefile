# `make` alone lists what there is.

PORT ?= 8080
CARGO_TARGET_DIR ?= target
WASM := wasm32-unknown-unknown
BINDGEN := 0.2.130
PYTHON ?= python3
SECONDS ?= 600
export CARGO_TARGET_DIR

.PHONY: help demo web package test compare fuzz goldens rust bindgen types-tools test-tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: web ## build the page and serve it on http://127.0.0.1:$(PORT)
	@scripts/need $(PYTHON) python3
	@echo "Open http://127.0.0.1:$(PORT)/  (Ctrl-C stops; PORT=... chooses another port)"
	@$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory www

web: rust bindgen ## build the page's WebAssembly into www/pkg
	@echo "Building the engine for the browser; the first time this takes ten to fifteen minutes on two cores."
	cargo rustc --profile web --lib --crate-type cdylib --no-default-features --target $(WASM)
	@wasm-bindgen --target web --remove-name-section --remove-producers-section --out-dir www/pkg $(CARGO_TARGET_DIR)/$(WASM)/web/pangu_draw.wasm
	@scripts/shell
	@wasm=www/pkg/pangu_draw_bg.wasm; printf 'WebAssembly: %d bytes, %d bytes gzip\n' \
		$$(wc -c < $$wasm) $$(gzip -9 < $$wasm | wc -c)

package: web types-tools ## make the npm package in pkg/
	@scripts/package

test: rust bindgen test-tools ## run every check: native, Vulkan on the CPU, WebGPU in Chromium, page and package end to end
	@scripts/test

compare: rust bindgen test-tools ## time quantized layers beside onnxruntime-web's, in Chromium
	@npm --prefix tests/onnxruntime ci --silent
	cargo rustc --profile web --lib --crate-type cdylib --no-default-features --features bench --target $(WASM)
	@wasm-bindgen --target web --out-dir tests/onnxruntime/pkg $(CARGO_TARGET_DIR)/$(WASM)/web/pangu_draw.wasm
	@npm --prefix tests/onnxruntime run --silent bench

fuzz: rust ## look for files that the readers of weights and manifests stumble over, SECONDS=600 each
	@command -v cargo-fuzz >/dev/null || env -u CARGO_TARGET_DIR cargo install --locked cargo-fuzz
	for target in gguf manifest; do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none --debug-assertions $$target -- \
			-max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=1024 || exit 1; \
	done

goldens: ## compute the reference outputs in tests/goldens again, with PyTorch (5.8 GB of packages)
	$(PYTHON) -m venv build/oracle
	build/oracle/bin/pip install --quiet -r tests/oracle/requirements.txt
	for script in tests/oracle/*.py; do build/oracle/bin/python $$script || exit 1; done

rust:
	@scripts/need cc build-essential
	@command -v cargo >/dev/null || { echo "Rust is missing. Please run:" \
		"curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env" >&2; exit 1; }
	@rustup target list --installed | grep -qx $(WASM) || rustup target add $(WASM)

bindgen:
	@[ "$$(wasm-bindgen --version 2>/dev/null)" = "wasm-bindgen $(BINDGEN)" ] || \
		env -u CARGO_TARGET_DIR cargo install wasm-bindgen-cli --version $(BINDGEN)

# Installs what a lock file names, unless that was done since it changed.
npm-ci = @[ $(1)/node_modules/.package-lock.json -nt $(1)/package-lock.json ] || npm --prefix $(1) ci --silent

types-tools:
	@scripts/need npm npm
	$(call npm-ci,tests/e2e)

test-tools: types-tools
	@scripts/need chromedriver chromium chromium-driver
	@scripts/need firefox-esr firefox-esr
	$(call npm-ci,tests/consumers)
	@ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1 || scripts/need lavapipe mesa-vulkan-drivers
