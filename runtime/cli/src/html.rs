//! Pages that stand alone: no script, nothing from elsewhere, and no text that is taken for markup.

use std::fmt::{self, Display, Write as _};

/// A part of a page. Markup comes from the source code alone; everything else is escaped.
#[derive(Debug, Default)]
pub struct Html {
    text: String,
}

impl Html {
    /// A whole page, with its style inside and a policy that lets a browser load nothing.
    pub fn page(title: &str, style: &'static str, body: impl FnOnce(&mut Self)) -> String {
        let mut page = Self::default();
        page.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .raw("<meta http-equiv=\"Content-Security-Policy\" ")
            .raw("content=\"default-src 'none'; style-src 'unsafe-inline'\">\n")
            .raw(
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
            )
            .text(title)
            .raw("</title>\n<style>\n")
            .raw(style)
            .raw("</style>\n</head>\n<body>\n");
        body(&mut page);
        page.raw("</body>\n</html>\n");
        page.text
    }

    /// Adds markup.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.text.push_str(markup);
        self
    }

    /// Adds text, escaped.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        write!(Escaping(&mut self.text), "{text}").expect("a text takes all that is written to it");
        self
    }

    /// Adds a row of a table of two columns: what something is called, and what it is.
    pub fn row(&mut self, name: &'static str, value: impl FnOnce(&mut Self)) -> &mut Self {
        self.raw("<tr><th scope=\"row\">").text(name).raw("</th><td>");
        value(self);
        self.raw("</td></tr>\n")
    }
}

/// Escapes what is written to it, for text and for attributes in double quotes.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                other if is_forbidden(other) => self.0.push(char::REPLACEMENT_CHARACTER),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// Controls and noncharacters, which HTML forbids, and those that turn the direction of writing,
/// which make a text look like another.
fn is_forbidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(character, '\u{fdd0}'..='\u{fdef}')
        || character as u32 & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.text
    }

    #[test]
    fn nothing_that_is_written_as_text_becomes_markup() {
        assert_eq!(
            escaped("<script>alert(\"1\" & '2')</script>"),
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;"
        );
    }

    #[test]
    fn what_html_forbids_and_what_turns_writing_around_is_replaced() {
        assert_eq!(
            escaped("a\0b\u{1b}c\u{fffe}d\u{202e}e\u{10ffff}"),
            "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}"
        );
        assert_eq!(escaped("line\n\tß 日本"), "line\n\tß 日本");
    }

    #[test]
    fn a_page_says_what_it_is_and_lets_a_browser_load_nothing() {
        let page = Html::page("a < b", "p{}\n", |body| {
            body.raw("<p>").text("c & d").raw("</p>\n");
        });

        assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"), "{page}");
        assert!(page.contains("default-src 'none'"), "{page}");
        assert!(page.contains("<title>a &lt; b</title>"), "{page}");
        assert!(page.ends_with("<p>c &amp; d</p>\n</body>\n</html>\n"), "{page}");
    }
}
