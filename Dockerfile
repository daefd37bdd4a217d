# One static binary in an image without a shell. Build it with `make image`.

FROM rust:1.95-slim-bookworm AS build
# Static on the gnu target: no libc to match in the final image. Names are resolved by Rust's own
# connections to literal addresses and by glibc's static resolver.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# rustc refuses to build procedural macros static unless the target is named.
ARG TARGET=x86_64-unknown-linux-gnu
WORKDIR /build

# Dependencies in a layer of their own: it is built again only when the manifests change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
 && echo 'fn main() {}' > src/main.rs \
 && echo '' > src/lib.rs \
 && cargo build --release --locked --target "$TARGET"

COPY src src
# The stub is younger than the sources that replace it, and cargo goes by the time of files.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --target "$TARGET" \
 && strip -o /sigmad "target/$TARGET/release/sigmad"

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
