# An image that contains only the static binary:
#   docker build --tag microgpt .
#   docker run --rm --volume "$PWD/model:/model" microgpt train --output /model
#   docker run --rm --volume "$PWD/model:/model" --publish 8080:8080 microgpt
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends make musl-tools \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add x86_64-unknown-linux-musl
WORKDIR /microgpt
COPY Cargo.toml Cargo.lock Makefile ./
COPY src src
COPY benches benches
COPY tests tests
RUN make static

FROM scratch
COPY --from=build /microgpt/target/x86_64-unknown-linux-musl/release/microgpt /microgpt
ENV MODEL_DIR=/model
VOLUME /model
EXPOSE 8080
ENTRYPOINT ["/microgpt"]
CMD ["serve", "--host", "0.0.0.0"]
