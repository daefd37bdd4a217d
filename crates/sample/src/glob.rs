//! Patterns of names: `*` is any text, `?` any one character, everything else itself.

/// Whether a pattern is that of the whole name. The time is bounded by the product of both lengths.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut rest) = (pattern, name);
    // The last star, and the text that it has not taken yet. An earlier one never has to take more.
    let mut star: Option<(&str, &str)> = None;
    loop {
        let mut after = pattern.chars();
        let mut left = rest.chars();
        match (after.next(), left.next()) {
            (Some('*'), _) => {
                pattern = after.as_str();
                star = Some((pattern, rest));
                continue;
            }
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (pattern, rest) = (after.as_str(), left.as_str());
                continue;
            }
            _ => {}
        }
        let Some((after_star, text)) = star else { return false };
        let mut text = text.chars();
        if text.next().is_none() {
            return false;
        }
        (pattern, rest) = (after_star, text.as_str());
        star = Some((after_star, rest));
    }
}
