//! The page: three files, embedded uncompressed and compressed.
//!
//! The content security policy lets a browser load from this server alone, and run no inline script.

use std::borrow::Cow;

use crate::http::message::HeaderField;

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    /// `/`
    Html,
    /// `/page.css`
    Style,
    /// `/page.js`
    Script,
}

/// The content codings of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssetCoding {
    /// Not compressed.
    Identity,
    /// gzip.
    Gzip,
    /// Brotli, the smallest.
    Brotli,
}

/// Style, script and requests from this origin only; no inline script or style, no framing, no strings as markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! embedded {
    ($name:literal, $coding:expr) => {
        match $coding {
            AssetCoding::Identity => &include_bytes!(concat!(env!("OUT_DIR"), "/", $name))[..],
            AssetCoding::Gzip => include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
            AssetCoding::Brotli => include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".br")),
        }
    };
}

impl Asset {
    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
        }
    }

    /// The bytes in this coding.
    pub fn body(self, coding: AssetCoding) -> &'static [u8] {
        match self {
            Self::Html => embedded!("page.html", coding),
            Self::Style => embedded!("page.css", coding),
            Self::Script => embedded!("page.js", coding),
        }
    }
}

/// The header fields of a page that is written for each request.
pub fn answer_fields() -> Vec<HeaderField> {
    vec![
        ("Content-Security-Policy", Cow::Borrowed(POLICY)),
        ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
        ("Referrer-Policy", Cow::Borrowed("no-referrer")),
        ("Cache-Control", Cow::Borrowed("no-store")),
    ]
}

/// The header fields of an asset.
pub fn fields(coding: AssetCoding) -> impl AsRef<[HeaderField]> {
    let always = [
        ("Content-Security-Policy", Cow::Borrowed(POLICY)),
        ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
        ("Referrer-Policy", Cow::Borrowed("no-referrer")),
        // Each version of the server has its own page.
        ("Cache-Control", Cow::Borrowed("no-cache")),
        ("Vary", Cow::Borrowed("Accept-Encoding")),
    ];
    let coding = match coding {
        AssetCoding::Identity => None,
        AssetCoding::Gzip => Some("gzip"),
        AssetCoding::Brotli => Some("br"),
    };
    let coding = coding.map(|coding| ("Content-Encoding", Cow::Borrowed(coding)));
    always.into_iter().chain(coding).collect::<smallvec::SmallVec<[HeaderField; 6]>>()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ASSETS: [Asset; 3] = [Asset::Html, Asset::Style, Asset::Script];
    /// Size limit of all files together, in either coding.
    const COMPRESSED_BYTES_MAX: usize = 120_000;

    #[test]
    fn every_coding_decodes_to_the_same_and_is_small() {
        let (mut gzip, mut brotli) = (0, 0);
        for asset in ASSETS {
            let plain = asset.body(AssetCoding::Identity);
            let mut decoded = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(asset.body(AssetCoding::Gzip));
            decoder.read_to_end(&mut decoded).expect("gzip");
            assert_eq!(decoded, plain);
            decoded.clear();
            let brotli_body = asset.body(AssetCoding::Brotli);
            let mut decoder = brotli_decompressor::Decompressor::new(brotli_body, 4096);
            decoder.read_to_end(&mut decoded).expect("Brotli");
            assert_eq!(decoded, plain);
            gzip += asset.body(AssetCoding::Gzip).len();
            brotli += brotli_body.len();
        }
        assert!(brotli < gzip && gzip < COMPRESSED_BYTES_MAX, "{brotli} {gzip}");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere() {
        let text =
            |asset: Asset| std::str::from_utf8(asset.body(AssetCoding::Identity)).expect("UTF-8");
        let html = text(Asset::Html);
        for forbidden in [" style=", "<style", " onclick", "javascript:", "http:", "https:"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        for script in html.split("<script").skip(1) {
            assert!(script.starts_with(" type=\"module\" src=\"/page.js\"></script>"), "{script}");
        }
        assert!(!text(Asset::Style).contains("url("));
    }
}
