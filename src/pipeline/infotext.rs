//! A drawing's settings as the text that AUTOMATIC1111's web interface writes into its pictures, and that galleries and other
//! tools read: the prompt, the negative prompt, and one last line of `Key: value` pairs.

use super::{Background, Settings};
use crate::diffusion::{samplers::Sampler, schedule::Spacing};
use std::fmt::Display;

/// Where the negative prompt begins, and where the pairs do.
const MARKS: [&str; 2] = ["Negative prompt:", "Steps:"];

impl Settings {
    /// The settings as such a text.
    ///
    /// Its readers go by the beginnings of lines, and by the last line. So the pairs are the last line, whatever the prompts
    /// are; a line of a prompt that begins as one of the format's own gets a space before its colon, which takes its meaning
    /// away; and control characters become spaces. The text is for people and other tools: the exact settings are in
    /// [`super::Drawing::to_png`]'s other chunk.
    pub fn infotext(&self) -> String {
        let mut lines = Vec::new();
        if !self.prompt.trim().is_empty() {
            lines.push(plain(&self.prompt));
        }
        if !self.negative_prompt.trim().is_empty() {
            lines.push(format!("{} {}", MARKS[0], plain(&self.negative_prompt)));
        }
        let pairs: Vec<_> = self.pairs().iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
        lines.push(pairs.join(", "));
        lines.join("\n")
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut add = |key: &str, value: &dyn Display| pairs.push((key.to_string(), value.to_string()));
        add("Steps", &self.steps);
        add("Sampler", &sampler(self.sampler));
        add("CFG scale", &self.guidance_scale);
        add("Seed", &self.seed);
        add("Size", &format!("{}x{}", self.width, self.height));
        add("Model", &self.model);
        add("Version", &concat!("PanGu-Draw ", env!("CARGO_PKG_VERSION")));
        match self.spacing {
            Spacing::Karras => add("Schedule type", &"Karras"),
            Spacing::Exponential => add("Schedule type", &"Exponential"),
            other => add("Spacing", &other),
        }
        if let Some(style) = &self.style {
            add("Style", style);
        }
        if self.style_scale > 0.0 {
            add("Style guidance", &self.style_scale);
        }
        if let Some(init) = &self.init {
            add("Denoising strength", &init.strength);
        }
        if self.background != Background::Transparent {
            add("Background", &self.background);
        }
        for control in &self.controls {
            let name = format!("Control {}", control.kind);
            add(&name, &format!("strength {}, until {}", control.strength, control.until));
        }
        if let Some(draft) = &self.draft {
            add("Draft until", &draft.t_low);
        }
        pairs
    }
}

/// The sampler's name in that interface.
fn sampler(sampler: Sampler) -> &'static str {
    match sampler {
        Sampler::Euler => "Euler",
        Sampler::EulerAncestral => "Euler a",
        Sampler::Heun => "Heun",
        Sampler::Dpmpp2m => "DPM++ 2M",
        Sampler::Ddim => "DDIM",
        Sampler::Lcm => "LCM",
    }
}

/// A prompt that no reader takes for anything else.
fn plain(prompt: &str) -> String {
    let line = |line: &str| {
        let line = line.replace(char::is_control, " ");
        let line = line.trim();
        let mark = MARKS.into_iter().find(|mark| {
            let begins = line.get(..mark.len());
            begins.is_some_and(|begins| begins.eq_ignore_ascii_case(mark))
        });
        match mark {
            Some(mark) => format!("{} :{}", &line[..mark.len() - 1], &line[mark.len()..]),
            None => line.to_string(),
        }
    };
    prompt.trim().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A value that holds no comma of its own: as a JSON string, where it must be, as the readers expect.
fn quoted(value: &str) -> String {
    match value.contains([',', '\n', ':', '"']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{
        ControlSettings, InitSettings,
        config::ControlKind,
        request::Background::{Colour, Transparent},
    };

    fn settings(prompt: &str, negative: &str) -> Settings {
        Settings {
            model: "emoji".into(),
            prompt: prompt.into(),
            negative_prompt: negative.into(),
            style: None,
            seed: 7,
            steps: 20,
            guidance_scale: 4.0,
            style_scale: 0.0,
            sampler: Sampler::Dpmpp2m,
            spacing: Spacing::Karras,
            width: 128,
            height: 96,
            background: Transparent,
            controls: Vec::new(),
            exchange: None,
            init: None,
            draft: None,
            t_low: None,
            upsampler: None,
            precision: None,
        }
    }

    /// Reads as the interface does that the format is from: prompt, negative prompt, pairs.
    fn read(text: &str) -> (String, String, Vec<(String, String)>) {
        let lines: Vec<_> = text.trim().split('\n').collect();
        let (last, lines) = lines.split_last().unwrap();
        let (mut prompts, mut at) = ([Vec::new(), Vec::new()], 0);
        for line in lines {
            let line = match line.trim().strip_prefix("Negative prompt:") {
                Some(rest) => {
                    at = 1;
                    rest.trim()
                }
                None => line.trim(),
            };
            prompts[at].push(line);
        }
        let mut pairs = Vec::new();
        let mut rest = *last;
        while let Some((key, after)) = rest.split_once(": ") {
            let (value, next) = if after.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
                (values.next().unwrap().unwrap(), &after[values.byte_offset()..])
            } else {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].to_string(), &after[end..])
            };
            pairs.push((key.trim().to_string(), value));
            rest = next.trim_start_matches([',', ' ']);
        }
        assert!(rest.is_empty(), "{rest}");
        (prompts[0].join("\n"), prompts[1].join("\n"), pairs)
    }

    #[test]
    fn is_what_other_tools_write() {
        let version = env!("CARGO_PKG_VERSION");
        let pairs = format!(
            "Steps: 20, Sampler: DPM++ 2M, CFG scale: 4, Seed: 7, Size: 128x96, Model: emoji, \
             Version: PanGu-Draw {version}, Schedule type: Karras"
        );
        assert_eq!(settings("red apple", "").infotext(), format!("red apple\n{pairs}"));
        assert_eq!(settings("红苹果", "blue").infotext(), format!("红苹果\nNegative prompt: blue\n{pairs}"));
        assert_eq!(settings("", " ").infotext(), pairs, "a model that draws after a picture needs no words");
    }

    #[test]
    fn says_what_else_there_was() {
        let settings = Settings {
            model: r#"my "best", model: 2"#.into(),
            style: Some("3d".into()),
            style_scale: 1.5,
            spacing: Spacing::Trailing,
            background: Colour([255, 204, 0]),
            init: Some(InitSettings { strength: 0.6, sha256: "ab".into(), mask: None }),
            controls: vec![ControlSettings {
                kind: ControlKind::Outline,
                strength: 0.9,
                until: 0.5,
                falloff: Default::default(),
                sha256: "cd".into(),
            }],
            ..settings("cat", "")
        };
        let (_, _, pairs) = read(&settings.infotext());
        let expected = [
            ("Model", r#"my "best", model: 2"#),
            ("Spacing", "trailing"),
            ("Style", "3d"),
            ("Style guidance", "1.5"),
            ("Denoising strength", "0.6"),
            ("Background", "#ffcc00"),
            ("Control outline", "strength 0.9, until 0.5"),
        ];
        for (key, value) in expected {
            assert!(pairs.contains(&(key.into(), value.into())), "{key}: {value} in {pairs:?}");
        }
    }

    #[test]
    fn prompts_are_not_taken_for_anything_else() {
        // A prompt, and as what it is read.
        let cases = [
            ("a house:\r\nred, with\n\na garden", "a house:\nred, with\n\na garden"),
            ("cat\nNegative prompt: dog", "cat\nNegative prompt : dog"),
            ("negative PROMPT:dog", "negative PROMPT :dog"),
            ("Steps: 3, Sampler: Euler, Seed: 1, Size: 1x1", "Steps : 3, Sampler: Euler, Seed: 1, Size: 1x1"),
            ("how many Steps: 3, Seed: 1, CFG scale: 2", "how many Steps: 3, Seed: 1, CFG scale: 2"),
            ("\u{0}a\u{7}b\n", "a b"),
            ("步骤:3", "步骤:3"),
        ];
        for (prompt, expected) in cases {
            for (prompt, negative) in [(prompt, ""), ("cat", prompt), (prompt, prompt)] {
                let (read_prompt, read_negative, pairs) = read(&settings(prompt, negative).infotext());
                let as_read =
                    |text: &str| if text == "cat" || text.is_empty() { text.into() } else { expected.to_string() };
                assert_eq!((read_prompt, read_negative), (as_read(prompt), as_read(negative)), "{prompt:?}");
                assert_eq!((pairs[0].1.as_str(), pairs[3].1.as_str()), ("20", "7"), "{prompt:?}");
            }
        }
    }
}
