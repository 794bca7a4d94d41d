# The image: one static binary and nothing else. docs/reference/image.md explains why it is built like this, and what was
# tested.

# The build stage runs on the architecture of the build machine and cross-compiles for others: nothing is emulated.
FROM --platform=$BUILDPLATFORM rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS build

# ring contains C code, which clang compiles for all targets. For amd64, clang needs headers of musl, and those for the
# architecture of the build machine suffice; for arm64, it needs none. No version is pinned here, because a Debian
# release keeps only the newest version of a package; the digest pins everything else.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang musl-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build

# cargo-auditable writes the list of crates into the binary, where scanners and SBOM tools find it.
RUN cargo install --locked --version 0.7.7 --root tools cargo-auditable

ENV CC_x86_64_unknown_linux_musl=clang \
    CC_aarch64_unknown_linux_musl=clang \
    CFLAGS_x86_64_unknown_linux_musl="-nostdlibinc -isystem /usr/include/x86_64-linux-musl -isystem /usr/include/aarch64-linux-musl" \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld

# BuildKit sets this for each platform. A default here would override it.
ARG TARGETARCH
RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-musl ;; \
      arm64) echo aarch64-unknown-linux-musl ;; \
      *) echo "no image for $TARGETARCH, see docs/reference/image.md" >&2; exit 1 ;; \
    esac > target-triple \
    && rustup target add "$(cat target-triple)"

# Builds the dependencies with an empty program, so that this layer is reused until a manifest or Cargo.lock changes.
# The manifests of members that are not built are needed too, because Cargo.lock has to match the whole workspace.
COPY Cargo.toml Cargo.lock ./
COPY crates/core/Cargo.toml crates/core/
COPY crates/tools/bench/Cargo.toml crates/tools/bench/
COPY crates/tools/demo/Cargo.toml crates/tools/demo/
COPY crates/testing/harness/Cargo.toml crates/testing/harness/
COPY crates/testing/election-model/Cargo.toml crates/testing/election-model/
COPY crates/testing/simulation/Cargo.toml crates/testing/simulation/
COPY crates/testing/testbed/Cargo.toml crates/testing/testbed/
RUN for member in . crates/core crates/t*/*; do \
      mkdir -p "$member/src" && touch "$member/src/lib.rs" && echo 'fn main() {}' > "$member/src/main.rs" || exit 1; \
    done \
    && cargo build --locked --release --package endpoint-copier-operator --target "$(cat target-triple)"

# Builds the operator. COPY keeps the modification times of files, by which cargo decides what to rebuild, so the files
# are touched. Packed relative relocations save 390 kB; the musl in the Rust toolchain supports them.
COPY crates/core/src crates/core/src
COPY src src
ARG GIT_COMMIT=unknown
RUN touch crates/core/src/lib.rs src/lib.rs src/main.rs \
    && PATH="$PWD/tools/bin:$PATH" GIT_COMMIT="$GIT_COMMIT" cargo auditable rustc \
      --locked --release --package endpoint-copier-operator --bin endpoint-copier-operator \
      --target "$(cat target-triple)" -- -C link-arg=--pack-dyn-relocs=relr \
    && mkdir image \
    && cp "target/$(cat target-triple)/release/endpoint-copier-operator" image/ \
    && ln -s endpoint-copier-operator image/manager

# The root file system: the binary, and a link to it. The link has the name that the binary has in the image of the Go
# operator, so a chart that calls this name still works.
FROM scratch
COPY --from=build /build/image/ /

ARG VERSION=unknown
ARG GIT_COMMIT=unknown
ARG SOURCE=https://github.com/endpoint-copier-operator/endpoint-copier-operator
LABEL org.opencontainers.image.title="endpoint-copier-operator" \
      org.opencontainers.image.description="Keeps the EndpointSlices of one Kubernetes Service in sync with another's" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.documentation="$SOURCE" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$GIT_COMMIT"

USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/endpoint-copier-operator"]
