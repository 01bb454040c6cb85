//! Languages of text analysis, by name, by code, and by a look at the text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::Language as Snowball;

use crate::IndexError;

macro_rules! languages {
    ($($variant:ident $name:literal $code:literal $snowball:expr;)*) => {
        /// How text is analysed: which stop words and which stemmer. Scripts without spaces become character bigrams in
        /// every language.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Language {
            $(#[doc = $name] $variant,)*
        }

        impl Language {
            /// Every language.
            pub const ALL: &[Language] = &[$(Language::$variant),*];

            /// Its lower-case English name.
            pub fn name(self) -> &'static str {
                match self { $(Language::$variant => $name,)* }
            }

            /// Its ISO 639-1 code; empty for plain.
            pub fn code(self) -> &'static str {
                match self { $(Language::$variant => $code,)* }
            }

            pub(super) fn snowball(self) -> Option<Snowball> {
                match self { $(Language::$variant => $snowball,)* }
            }
        }
    };
}

languages! {
    Arabic "arabic" "ar" Some(Snowball::Arabic);
    Chinese "chinese" "zh" None;
    Danish "danish" "da" Some(Snowball::Danish);
    Dutch "dutch" "nl" Some(Snowball::Dutch);
    English "english" "en" Some(Snowball::English);
    Finnish "finnish" "fi" Some(Snowball::Finnish);
    French "french" "fr" Some(Snowball::French);
    German "german" "de" Some(Snowball::German);
    Greek "greek" "el" Some(Snowball::Greek);
    Hungarian "hungarian" "hu" Some(Snowball::Hungarian);
    Italian "italian" "it" Some(Snowball::Italian);
    Japanese "japanese" "ja" None;
    Korean "korean" "ko" None;
    Norwegian "norwegian" "no" Some(Snowball::Norwegian);
    Plain "plain" "" None;
    Portuguese "portuguese" "pt" Some(Snowball::Portuguese);
    Romanian "romanian" "ro" Some(Snowball::Romanian);
    Russian "russian" "ru" Some(Snowball::Russian);
    Spanish "spanish" "es" Some(Snowball::Spanish);
    Swedish "swedish" "sv" Some(Snowball::Swedish);
    Tamil "tamil" "ta" Some(Snowball::Tamil);
    Turkish "turkish" "tr" Some(Snowball::Turkish);
}

/// Words that make up a tenth and more of English prose, and little of anything else written in ASCII.
const ENGLISH_WORDS: [&str; 14] = [
    "the", "of", "and", "to", "is", "was", "for", "that", "with", "are", "what", "which", "by",
    "from",
];

impl Language {
    /// The language of sample texts: by script for Chinese, Japanese and Korean, English if nearly all letters are ASCII
    /// and English function words are frequent, else [`Language::Plain`].
    pub fn detect<'a>(samples: impl IntoIterator<Item = &'a str>) -> Language {
        let mut seen = Seen::default();
        samples.into_iter().for_each(|text| seen.add(text));
        let east_asian = seen.han + seen.kana + seen.hangul;
        if seen.letters == 0 {
            Language::Plain
        } else if east_asian * 4 >= seen.letters {
            // Japanese mixes kana into Han, Chinese has none; Korean uses Han sparingly.
            match () {
                () if seen.hangul * 2 >= east_asian => Language::Korean,
                () if seen.kana * 10 >= east_asian => Language::Japanese,
                () => Language::Chinese,
            }
        } else if seen.ascii * 10 >= seen.letters * 9 && seen.english * 20 >= seen.words {
            Language::English
        } else {
            Language::Plain
        }
    }
}

#[derive(Default)]
struct Seen {
    letters: usize,
    ascii: usize,
    han: usize,
    kana: usize,
    hangul: usize,
    words: usize,
    english: usize,
}

impl Seen {
    fn add(&mut self, text: &str) {
        for c in text.chars().filter(|c| c.is_alphabetic()) {
            self.letters += 1;
            match c {
                c if c.is_ascii() => self.ascii += 1,
                '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}' => {
                    self.kana += 1
                }
                '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7af}' => {
                    self.hangul += 1
                }
                '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}' => {
                    self.han += 1
                }
                _ => {}
            }
        }
        for word in text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
        {
            self.words += 1;
            self.english += usize::from(
                ENGLISH_WORDS
                    .iter()
                    .any(|english| word.eq_ignore_ascii_case(english)),
            );
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Language {
    type Err = IndexError;

    /// A name or an ISO 639-1 code, in any case.
    fn from_str(text: &str) -> Result<Language, IndexError> {
        let wanted = text.to_ascii_lowercase();
        let named = |language: &&Language| {
            language.name() == wanted || (!wanted.is_empty() && language.code() == wanted)
        };
        Language::ALL
            .iter()
            .find(named)
            .copied()
            .ok_or_else(|| IndexError::Language {
                name: text.to_owned(),
                known: Language::ALL
                    .iter()
                    .map(|language| language.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_tell_languages() {
        for (text, language) in [
            (
                "The Normans were the people who gave their name to Normandy, a region of France.",
                Language::English,
            ),
            (
                "What causes glaucoma? It is a group of diseases of the eye.",
                Language::English,
            ),
            (
                "La Normandie est une région du nord de la France, bordée par la Manche.",
                Language::Plain,
            ),
            (
                "El perro come en la casa con mi amigo cada noche",
                Language::Plain,
            ),
            (
                "在歐洲，梵語的學術研究，由德國學者陸特和漢斯雷頓開創。1786年2月2日 (Asiatic Society)",
                Language::Chinese,
            ),
            (
                "日本の首都は東京であり、人口はおよそ千四百万人です。",
                Language::Japanese,
            ),
            ("대한민국의 수도는 서울(首爾)이다.", Language::Korean),
            ("Столица России — Москва.", Language::Plain),
            ("1234 5678", Language::Plain),
            ("", Language::Plain),
        ] {
            assert_eq!(Language::detect([text]), language, "{text}");
        }
        assert_eq!(Language::detect([]), Language::Plain);
    }

    #[test]
    fn names_and_codes_read_back() {
        for language in Language::ALL {
            assert_eq!(language.to_string().parse::<Language>().unwrap(), *language);
        }
        assert_eq!("ZH".parse::<Language>().unwrap(), Language::Chinese);
        for bad in ["", "klingon", "auto"] {
            assert!(bad.parse::<Language>().is_err());
        }
    }
}
