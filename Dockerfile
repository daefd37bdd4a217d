# One static binary in an image without a shell. Build it with `make image`.

FROM rust:1.95-slim-bookworm AS build
# Static on the gnu target: the final image has no libc.
ENV RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /build

# Dependencies in a layer of their own: it is built again only when the manifests change. The benches
# are there because the manifest names them.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY crates crates
# The target is named because rustc refuses to link procedural macros static for itself.
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --bin sigmad --target "$(uname -m)-unknown-linux-gnu"

COPY build.rs .
COPY src src
# The stub is younger than the sources that replace it, and cargo goes by the time of files.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --bin sigmad --target "$(uname -m)-unknown-linux-gnu" \
 && strip -o /sigmad "target/$(uname -m)-unknown-linux-gnu/release/sigmad"

FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sigmad" \
      org.opencontainers.image.description="Rolling statistics and anomaly verdicts for fleets, over HTTP" \
      org.opencontainers.image.source="https://github.com/sigmad/sigmad" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /sigmad /sigmad
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/sigmad"]
