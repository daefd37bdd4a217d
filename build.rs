//! Packs the live page ahead of time: its sources as they stand in `src/dashboard/page`, joined into
//! one file of each kind, plain and as gzip and brotli, for [`include_bytes`] in `src/dashboard`.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::{env, fs};

const SOURCES: &str = "src/dashboard/page";

/// What is served, and the files it is made of, in order.
const ASSETS: [(&str, &[&str]); 3] = [
    ("page.html", &["page.html"]),
    ("page.css", &["uplot/uplot.min.css", "page.css"]),
    (
        "page.js",
        &[
            "uplot/uplot.iife.min.js",
            "format.js",
            "stream.js",
            "charts.js",
            "history.js",
            "tables.js",
            "series.js",
            "incidents.js",
            "devices.js",
            "page.js",
        ],
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCES}");
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    for (name, files) in ASSETS {
        let mut plain = Vec::new();
        for file in files {
            plain.extend(fs::read(Path::new(SOURCES).join(file))?);
            plain.push(b'\n');
        }
        let path = Path::new(&out).join(name);
        fs::write(path.with_added_extension("gz"), gzip(&plain)?)?;
        fs::write(path.with_added_extension("br"), brotli(&plain)?)?;
        fs::write(path, plain)?;
    }
    Ok(())
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn brotli(mut plain: &[u8]) -> std::io::Result<Vec<u8>> {
    // The slowest and smallest: it is done once, at build.
    let parameters = brotli::enc::BrotliEncoderParams { quality: 11, ..Default::default() };
    let mut packed = Vec::new();
    brotli::BrotliCompress(&mut plain, &mut packed, &parameters)?;
    Ok(packed)
}
