//! The page: three files, embedded as they are and packed.
//!
//! Everything comes from here: the policy sent with it lets a browser load nothing from elsewhere
//! and run nothing that stands in the page itself.

use std::borrow::Cow;

use crate::http::message::HeaderField;

/// One file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asset {
    /// `/`
    Html,
    /// `/page.css`
    Style,
    /// `/page.js`
    Script,
}

/// How a client wants a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// gzip.
    Gzip,
    /// Brotli, the smallest.
    Brotli,
}

/// Nothing but this origin's style, script and answers; no inline script or style, no frame around
/// the page, no string that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! packed {
    ($name:literal, $packing:expr) => {
        match $packing {
            Packing::Plain => &include_bytes!(concat!(env!("OUT_DIR"), "/", $name))[..],
            Packing::Gzip => include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
            Packing::Brotli => include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".br")),
        }
    };
}

impl Asset {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
        }
    }

    /// Its bytes, packed in that way.
    pub fn body(self, packing: Packing) -> &'static [u8] {
        match self {
            Self::Html => packed!("page.html", packing),
            Self::Style => packed!("page.css", packing),
            Self::Script => packed!("page.js", packing),
        }
    }
}

/// The header fields of an asset.
pub fn fields(packing: Packing) -> impl AsRef<[HeaderField]> {
    let always = [
        ("Content-Security-Policy", Cow::Borrowed(POLICY)),
        ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
        ("Referrer-Policy", Cow::Borrowed("no-referrer")),
        // A new version of the server has a new page.
        ("Cache-Control", Cow::Borrowed("no-cache")),
        ("Vary", Cow::Borrowed("Accept-Encoding")),
    ];
    let coding = match packing {
        Packing::Plain => None,
        Packing::Gzip => Some("gzip"),
        Packing::Brotli => Some("br"),
    };
    let coding = coding.map(|coding| ("Content-Encoding", Cow::Borrowed(coding)));
    always.into_iter().chain(coding).collect::<smallvec::SmallVec<[HeaderField; 6]>>()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ASSETS: [Asset; 3] = [Asset::Html, Asset::Style, Asset::Script];
    /// What the page may weigh, all files together, by either coding.
    const PACKED_BYTES_MAX: usize = 100_000;

    #[test]
    fn every_packing_unpacks_to_the_same_and_is_small() {
        let (mut gzip, mut brotli) = (0, 0);
        for asset in ASSETS {
            let plain = asset.body(Packing::Plain);
            let mut unpacked = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(asset.body(Packing::Gzip));
            decoder.read_to_end(&mut unpacked).expect("gzip");
            assert_eq!(unpacked, plain);
            unpacked.clear();
            let packed = asset.body(Packing::Brotli);
            let mut decoder = brotli_decompressor::Decompressor::new(packed, 4096);
            decoder.read_to_end(&mut unpacked).expect("Brotli");
            assert_eq!(unpacked, plain);
            gzip += asset.body(Packing::Gzip).len();
            brotli += packed.len();
        }
        assert!(brotli < gzip && gzip < PACKED_BYTES_MAX, "{brotli} {gzip}");
    }

    #[test]
    fn the_page_has_no_inline_script_or_style_and_asks_nobody_else() {
        let text = |asset: Asset| std::str::from_utf8(asset.body(Packing::Plain)).expect("UTF-8");
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
