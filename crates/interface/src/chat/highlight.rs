//! Syntax highlighting: comments, strings, numbers and keywords, line by line.
//!
//! A scanner rather than a parser: small, without start-up cost, and accurate enough for code in
//! answers. In unknown languages, only strings and numbers are highlighted.

use ratatui::style::Style;
use ratatui::text::Span;

use super::theme::Theme;

/// The lexical rules of a language.
struct Language {
    names: &'static [&'static str],
    line_comments: &'static [&'static str],
    block_comment: Option<(&'static str, &'static str)>,
    /// Longest first. Triple quotes can span lines.
    quotes: &'static [&'static str],
    keywords: &'static str,
    any_case: bool,
}

const C_LIKE: &str = "alignas alignof auto bool break case catch char class const constexpr continue \
     default delete do double else enum explicit extern false final float for friend goto if inline \
     int long mutable namespace new noexcept nullptr operator override private protected public \
     register return short signed sizeof static struct switch template this throw true try typedef \
     typename union unsigned using virtual void volatile while abstract boolean byte extends \
     finally implements import instanceof interface null package super throws synchronized var \
     foreach in is out ref string async await base get set record sealed when where yield";

const LANGUAGES: &[Language] = &[
    Language {
        names: &["rust", "rs"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: &["\""],
        keywords: "as async await break const continue crate dyn else enum extern false fn for if \
             impl in let loop match mod move mut pub ref return self Self static struct super \
             trait true type unsafe use where while",
        any_case: false,
    },
    Language {
        names: &["python", "py", "python3"],
        line_comments: &["#"],
        block_comment: None,
        quotes: &["\"\"\"", "'''", "\"", "'"],
        keywords: "False None True and as assert async await break class continue def del elif \
             else except finally for from global if import in is lambda match nonlocal not or \
             pass raise return try while with yield",
        any_case: false,
    },
    Language {
        names: &["javascript", "js", "typescript", "ts", "jsx", "tsx"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: &["\"", "'", "`"],
        keywords: "abstract any as async await boolean break case catch class const continue \
             debugger default delete do else enum export extends false finally for from function \
             if implements import in instanceof interface let new null number of private \
             protected public readonly return static string super switch this throw true try \
             type typeof undefined var void while yield",
        any_case: false,
    },
    Language {
        names: &["c", "h", "cpp", "c++", "cc", "hpp", "java", "csharp", "cs", "c#", "cuda"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: &["\"", "'"],
        keywords: C_LIKE,
        any_case: false,
    },
    Language {
        names: &["go", "golang"],
        line_comments: &["//"],
        block_comment: Some(("/*", "*/")),
        quotes: &["\"", "`", "'"],
        keywords: "break case chan const continue default defer else fallthrough false for func \
             go goto if import interface map nil package range return select struct switch true \
             type var",
        any_case: false,
    },
    Language {
        names: &["bash", "sh", "shell", "zsh", "console"],
        line_comments: &["#"],
        block_comment: None,
        quotes: &["\"", "'"],
        keywords: "case do done elif else esac export fi for function if in local return set \
             then unset until while echo cd",
        any_case: false,
    },
    Language {
        names: &["sql", "sqlite", "postgresql", "mysql"],
        line_comments: &["--"],
        block_comment: Some(("/*", "*/")),
        quotes: &["'", "\""],
        keywords: "add all alter and as asc between by case create cross default delete desc \
             distinct drop else end exists foreign from full group having in inner insert into \
             is join key left like limit not null on or order outer primary references right \
             select set table then union unique update using values view when where with",
        any_case: true,
    },
    Language {
        names: &["json", "yaml", "yml", "toml", "ini"],
        line_comments: &["#"],
        block_comment: None,
        quotes: &["\"", "'"],
        keywords: "true false null yes no on off",
        any_case: false,
    },
];

const UNKNOWN: Language = Language {
    names: &[],
    line_comments: &[],
    block_comment: None,
    quotes: &["\""],
    keywords: "",
    any_case: false,
};

/// Highlights one code block, a line at a time.
pub(crate) struct Highlighter {
    language: &'static Language,
    theme: Theme,
    /// Terminator and style of a comment or string that continues from an earlier line.
    open: Option<(&'static str, Style)>,
}

impl Highlighter {
    /// A highlighter for the info string of a code fence, such as `rust` or `python title=x`.
    pub(crate) fn new(info: &str, theme: Theme) -> Self {
        let name = info.split([' ', ',', '{']).next().unwrap_or_default().to_ascii_lowercase();
        let language = LANGUAGES.iter().find(|l| l.names.contains(&name.as_str()));
        Self { language: language.unwrap_or(&UNKNOWN), theme, open: None }
    }

    /// Splits the next line into styled spans.
    pub(crate) fn line(&mut self, line: &str) -> Vec<Span<'static>> {
        let mut spans: Vec<Span<'static>> = Vec::new();
        let mut rest = line;
        while !rest.is_empty() {
            let (len, style) = self.piece(rest);
            match spans.last_mut() {
                Some(last) if last.style == style => last.content.to_mut().push_str(&rest[..len]),
                _ => spans.push(Span::styled(rest[..len].to_owned(), style)),
            }
            rest = &rest[len..];
        }
        spans
    }

    /// Length and style of the first token of `rest`.
    fn piece(&mut self, rest: &str) -> (usize, Style) {
        if let Some((end, style)) = self.open {
            let Some(at) = rest.find(end) else { return (rest.len(), style) };
            self.open = None;
            return (at + end.len(), style);
        }
        let l = self.language;
        if l.line_comments.iter().any(|c| rest.starts_with(c)) {
            return (rest.len(), self.theme.comment());
        }
        if let Some((_, end)) = l.block_comment.filter(|(start, _)| rest.starts_with(start)) {
            self.open = Some((end, self.theme.comment()));
            return (2, self.theme.comment());
        }
        if let Some(quote) = l.quotes.iter().find(|q| rest.starts_with(**q)) {
            return (self.string(rest, quote), self.theme.string());
        }
        let first = rest.chars().next().unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if !is_word(first) {
            return (first.len_utf8(), self.theme.plain());
        }
        let is_number = first.is_ascii_digit();
        let end = rest.find(|c| !(is_word(c) || is_number && c == '.')).unwrap_or(rest.len());
        let word = &rest[..end];
        let style = if is_number {
            self.theme.number()
        } else if self.is_keyword(word) {
            self.theme.keyword()
        } else {
            self.theme.plain()
        };
        (end, style)
    }

    fn is_keyword(&self, word: &str) -> bool {
        let any_case = self.language.any_case;
        let mut keywords = self.language.keywords.split_ascii_whitespace();
        keywords.any(|k| k == word || any_case && k.eq_ignore_ascii_case(word))
    }

    /// Length of the string at the start of `rest`; a triple-quoted string may stay open.
    fn string(&mut self, rest: &str, quote: &'static str) -> usize {
        let (mut at, mut escaped) = (quote.len(), false);
        for c in rest[quote.len()..].chars() {
            if !escaped && rest[at..].starts_with(quote) {
                return at + quote.len();
            }
            escaped = c == '\\' && !escaped;
            at += c.len_utf8();
        }
        if quote.len() == 3 {
            self.open = Some((quote, self.theme.string()));
        }
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(info: &str, code: &str) -> Vec<(String, &'static str)> {
        let theme = Theme::new(true);
        let kind = |style: Style| match style {
            s if s == theme.comment() => "comment",
            s if s == theme.string() => "string",
            s if s == theme.number() => "number",
            s if s == theme.keyword() => "keyword",
            _ => "",
        };
        let mut highlighter = Highlighter::new(info, theme);
        let spans = code.lines().flat_map(|l| highlighter.line(l)).collect::<Vec<_>>();
        let named = spans.into_iter().map(|s| (s.content.trim().to_owned(), kind(s.style)));
        named.filter(|(text, kind)| !text.is_empty() && !kind.is_empty()).collect()
    }

    #[test]
    fn tokens_get_their_styles() {
        let owned = |list: &[(&str, &'static str)]| -> Vec<(String, &'static str)> {
            list.iter().map(|(s, k)| ((*s).to_owned(), *k)).collect()
        };
        assert_eq!(
            kinds("rust", "let s = \"a \\\" // b\"; // let\n/* fn\n1 */ x2 + 0x1f"),
            owned(&[
                ("let", "keyword"),
                ("\"a \\\" // b\"", "string"),
                ("// let", "comment"),
                ("/* fn", "comment"),
                ("1 */", "comment"),
                ("0x1f", "number"),
            ])
        );
        assert_eq!(
            kinds("python", "def f():\n  '''doc\n  if'''\n  return 1.5 # for"),
            owned(&[
                ("def", "keyword"),
                ("'''doc", "string"),
                ("if'''", "string"),
                ("return", "keyword"),
                ("1.5", "number"),
                ("# for", "comment"),
            ])
        );
        assert_eq!(kinds("SQL", "Select x"), owned(&[("Select", "keyword")]));
        assert_eq!(kinds("", "fn 1"), owned(&[("1", "number")]));
    }

    #[test]
    fn spans_add_up_to_the_line() {
        let line = "é = 'a\\'b' + \"\u{1f600}\" /* 'x */ # // `";
        for info in ["rust", "python", "js", "bash", "json", "none", "c++ title"] {
            let spans = Highlighter::new(info, Theme::new(true)).line(line);
            assert_eq!(spans.iter().map(|s| s.content.as_ref()).collect::<String>(), line);
        }
    }
}
