//! Text to terms, one rule for all languages: words of scripts with spaces, character bigrams of scripts without.
//!
//! The same analyser serves passages and queries. Words are lower-cased; stop words and stemming follow the language.

use std::iter::Peekable;
use std::str::CharIndices;

use tantivy::tokenizer::{
    LowerCaser, RemoveLongFilter, Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream,
    Tokenizer,
};

use super::Language;

/// Longer words are dropped (Lucene's limit), in bytes.
const LONGEST_WORD: usize = 255;

/// The analyser of a language.
pub(super) fn analyzer(language: Language) -> TextAnalyzer {
    // Only English joins: French l'avion and Italian dell'arte are two words.
    let words = Words {
        join_apostrophes: language == Language::English,
    };
    let mut builder = TextAnalyzer::builder(words)
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser)
        .dynamic();
    if let Some(snowball) = language.snowball() {
        if let Some(stop_words) = StopWordFilter::new(snowball) {
            builder = builder.filter_dynamic(stop_words);
        }
        builder = builder.filter_dynamic(Stemmer::new(snowball));
    }
    builder.build()
}

/// Whether a character's script is written without spaces between words (Han, kana, Hangul by convention of CJK
/// analysers, Thai, Lao, Myanmar, Khmer).
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e01}'..='\u{0e3a}' | '\u{0e40}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{1100}'..='\u{11ff}' | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{309f}'
        | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{318f}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}'
        | '\u{20000}'..='\u{323af}')
}

/// Full-width letters and digits, frequent in CJK text, as ASCII.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '\u{2019}' => '\'',
        _ => c,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() && !is_unspaced(c)
}

#[derive(Clone)]
struct Words {
    /// Whether `don't` is one word (the English stemmer then cuts `'s`).
    join_apostrophes: bool,
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        WordStream {
            chars: text.char_indices().peekable(),
            token: Token::default(),
            in_run: false,
            join_apostrophes: self.join_apostrophes,
        }
    }
}

struct WordStream<'a> {
    chars: Peekable<CharIndices<'a>>,
    token: Token,
    /// Whether the current run of unspaced characters has given a bigram.
    in_run: bool,
    join_apostrophes: bool,
}

impl WordStream<'_> {
    fn start(&mut self, at: usize) {
        self.token.text.clear();
        self.token.offset_from = at;
        self.token.position = self.token.position.wrapping_add(1);
    }

    fn push(&mut self, at: usize, c: char) {
        self.token.text.push(narrow(c));
        self.token.offset_to = at + c.len_utf8();
    }

    fn peek(&mut self, wanted: fn(char) -> bool) -> Option<(usize, char)> {
        self.chars.peek().copied().filter(|(_, c)| wanted(*c))
    }

    /// The bigram that starts with `c`, or `c` itself where it stands alone; false for the last of a longer run.
    fn bigram(&mut self, at: usize, c: char) -> bool {
        let next = self.peek(is_unspaced);
        let emit = next.is_some() || !self.in_run;
        self.in_run = next.is_some();
        if emit {
            self.start(at);
            self.push(at, c);
            if let Some((at, c)) = next {
                self.push(at, c);
            }
        }
        emit
    }

    fn word(&mut self, at: usize, c: char) {
        self.start(at);
        self.push(at, c);
        loop {
            if let Some((at, c)) = self.peek(is_word) {
                self.chars.next();
                self.push(at, c);
                continue;
            }
            let mut ahead = self.chars.clone();
            let apostrophe = ahead
                .next()
                .filter(|(_, c)| self.join_apostrophes && narrow(*c) == '\'');
            match apostrophe {
                Some((at, c)) if ahead.peek().is_some_and(|(_, c)| is_word(*c)) => {
                    self.chars.next();
                    self.push(at, c);
                }
                _ => return,
            }
        }
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        while let Some((at, c)) = self.chars.next() {
            if is_unspaced(c) {
                if self.bigram(at, c) {
                    return true;
                }
            } else if is_word(c) {
                self.word(at, c);
                return true;
            }
        }
        false
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(language: Language, text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        analyzer(language)
            .token_stream(text)
            .process(&mut |token| terms.push(token.text.clone()));
        terms
    }

    #[test]
    fn english_is_stemmed_without_stop_words() {
        assert_eq!(
            terms(
                Language::English,
                "The Normans’ dukes; the duke's RUNNING don't"
            ),
            ["norman", "duke", "duke", "run", "don't"]
        );
    }

    #[test]
    fn chinese_becomes_bigrams_and_keeps_latin_words() {
        assert_eq!(
            terms(Language::Chinese, "在歐洲，梵語A4紙 Asiatic Society １９"),
            [
                "在歐", "歐洲", "梵語", "a4", "紙", "asiatic", "society", "19"
            ]
        );
    }

    #[test]
    fn runs_end_at_marks_and_words() {
        assert_eq!(
            terms(Language::Japanese, "カー・東京x京"),
            ["カー", "東京", "x", "京"]
        );
        assert_eq!(terms(Language::English, "梵語 of India"), ["梵語", "india"]);
    }

    #[test]
    fn other_languages() {
        assert_eq!(
            terms(Language::Plain, "L'été Über-Straße"),
            ["l", "été", "über", "straße"]
        );
        assert_eq!(terms(Language::French, "les continuations"), ["continu"]);
        assert_eq!(terms(Language::Korean, "서울은"), ["서울", "울은"]);
    }

    #[test]
    fn nothing_gives_nothing() {
        for text in ["", "   ", "!?；。", "'", "the of"] {
            assert!(terms(Language::English, text).is_empty(), "{text:?}");
        }
        assert!(terms(Language::Plain, &"x".repeat(300)).is_empty());
    }
}
