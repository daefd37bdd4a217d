//! A CPU profile as a picture.

use std::io;

use inferno::flamegraph::{self, Options};

/// SVG of folded stacks.
///
/// # Errors
/// Without any stack.
pub fn draw(lines: &[String], title: String, subtitle: String) -> io::Result<Vec<u8>> {
    let mut options = Options::default();
    options.title = title;
    options.subtitle = Some(subtitle);
    options.count_name = "µs".to_owned();
    options.deterministic = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_in_the_picture() {
        let lines =
            ["worker-0;main;<a::B as c::D>::e 1500".to_owned(), "worker-1;main 500".to_owned()];
        let svg = draw(&lines, "sigmad".to_owned(), "one".to_owned()).expect("a picture");
        let svg = String::from_utf8(svg).expect("text");
        assert!(svg.contains("&lt;a::B as c::D&gt;::e (1,500 µs, 75.00%)"), "{svg}");
        assert!(draw(&[], String::new(), String::new()).is_err());
    }
}
