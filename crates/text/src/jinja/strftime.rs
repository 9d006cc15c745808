//! Dates, with the directives of Python's `strftime` and glibc's flags.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Formats a Unix time, in UTC; unknown directives are kept verbatim.
pub(super) fn strftime(format: &str, unix: u64) -> String {
    let time = Time::new(unix);
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let directive = after.trim_start_matches(['-', '_', '0', '^', '#']);
        let flags = &after[..after.len() - directive.len()];
        let Some(letter) = directive.chars().next() else { return out + "%" + after };
        rest = &directive[letter.len_utf8()..];
        match time.field(letter) {
            Some(field) => out.push_str(&field.print(flags)),
            None => out.extend(["%", flags, letter.encode_utf8(&mut [0; 4])]),
        }
    }
    out + rest
}

/// The value of a directive.
enum Field {
    Text(String),
    /// A number, its width, and what pads it.
    Number(u64, usize, char),
}

impl Field {
    fn print(self, flags: &str) -> String {
        let text = match self {
            Self::Text(text) => text,
            Self::Number(n, width, pad) => {
                let pad = flags.chars().rfind(|c| matches!(c, '-' | '_' | '0')).unwrap_or(pad);
                match pad {
                    '-' => n.to_string(),
                    '_' | ' ' => format!("{n:width$}"),
                    _ => format!("{n:0width$}"),
                }
            }
        };
        match flags.chars().rfind(|c| matches!(c, '^' | '#')) {
            // `#` inverts the case of AM and PM, and otherwise means capitals.
            Some('#') if matches!(&*text, "AM" | "PM") => text.to_lowercase(),
            Some(_) => text.to_uppercase(),
            None => text,
        }
    }
}

struct Time {
    unix: u64,
    year: u64,
    month: u64,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Sunday, 0.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    fn new(unix: u64) -> Self {
        let days = unix / 86_400;
        let (year, month, day) = civil(days);
        let is = |y: u64, n| y.is_multiple_of(n);
        let is_leap = is(year, 4) && (!is(year, 100) || is(year, 400));
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
        Self {
            unix,
            year,
            month,
            day,
            day_of_year: before + day + u64::from(month > 2 && is_leap),
            weekday: (days + 4) % 7, // 1 January 1970 was a Thursday
            hour: unix / 3600 % 24,
            minute: unix / 60 % 60,
            second: unix % 60,
        }
    }

    fn field(&self, letter: char) -> Option<Field> {
        let text = |text: &str| Some(Field::Text(text.to_owned()));
        let number = |n, width| Some(Field::Number(n, width, '0'));
        let blank = |n| Some(Field::Number(n, 2, ' '));
        let of = |format: &str| Some(Field::Text(strftime(format, self.unix)));
        let (month, weekday) = (MONTHS[self.month as usize - 1], DAYS[self.weekday as usize]);
        let hour12 = (self.hour + 11) % 12 + 1;
        let (iso_year, iso_week) = self.iso_week();
        match letter {
            'Y' => number(self.year, 4),
            'y' => number(self.year % 100, 2),
            'C' => number(self.year / 100, 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => blank(self.day),
            'j' => number(self.day_of_year, 3),
            'B' => text(month),
            'b' | 'h' => text(&month[..3]),
            'A' => text(weekday),
            'a' => text(&weekday[..3]),
            'u' => number((self.weekday + 6) % 7 + 1, 1),
            'w' => number(self.weekday, 1),
            'U' => number((self.day_of_year + 6 - self.weekday) / 7, 2),
            'W' => number((self.day_of_year + 6 - (self.weekday + 6) % 7) / 7, 2),
            'G' => number(iso_year, 4),
            'g' => number(iso_year % 100, 2),
            'V' => number(iso_week, 2),
            'H' => number(self.hour, 2),
            'k' => blank(self.hour),
            'I' => number(hour12, 2),
            'l' => blank(hour12),
            'M' => number(self.minute, 2),
            'S' => number(self.second, 2),
            'f' => text("000000"),
            'p' => text(if self.hour < 12 { "AM" } else { "PM" }),
            'P' => text(if self.hour < 12 { "am" } else { "pm" }),
            's' => number(self.unix, 1),
            'Z' | 'z' => text(""),
            'F' => of("%Y-%m-%d"),
            'D' | 'x' => of("%m/%d/%y"),
            'T' | 'X' => of("%H:%M:%S"),
            'R' => of("%H:%M"),
            'r' => of("%I:%M:%S %p"),
            'c' => of("%a %b %e %H:%M:%S %Y"),
            'n' => text("\n"),
            't' => text("\t"),
            '%' => text("%"),
            _ => None,
        }
    }

    /// ISO 8601: weeks begin on Monday, and the first has the year's first Thursday.
    fn iso_week(&self) -> (u64, u64) {
        let since_monday = (self.weekday + 6) % 7;
        // The week's Thursday decides; before 1970 ends, it may be in 1969, which no clock shows.
        let thursday = (self.unix / 86_400 + 3).saturating_sub(since_monday);
        let (year, ..) = civil(thursday);
        let first = Self::new(thursday * 86_400);
        (year, (first.day_of_year - 1) / 7 + 1)
    }
}

/// Converts days since 1970 to year, month and day of the Gregorian calendar, counting years from March
/// in eras of 400 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_match_python() {
        // datetime.fromtimestamp(t, tz=utc).strftime(...) of CPython 3.12
        assert_eq!(strftime("%d %b %Y", 1_722_384_000), "31 Jul 2024");
        assert_eq!(
            strftime("%A, %B %e %y %H:%M:%S", 1_709_210_096),
            "Thursday, February 29 24 12:34:56"
        );
        assert_eq!(strftime("%F 100%% %Q %", 0), "1970-01-01 100% %Q %");
        assert_eq!(strftime("%a %Y-%m-%d", 4_107_542_399), "Sun 2100-02-28");
        assert_eq!(strftime("%-d.%-m. %j %-j %I%p", 1_704_067_200), "1.1. 001 1 12AM");
    }

    #[test]
    fn weeks_match_python() {
        // 2021-01-03 (a Sunday), 2020-12-31, 2018-12-31 (a Monday), 2024-12-30 (a Monday)
        for (unix, expected) in [
            (1_609_632_000, "01 00 53 2020"),
            (1_609_372_800, "52 52 53 2020"),
            (1_546_214_400, "52 53 01 2019"),
            (1_735_516_800, "52 53 01 2025"),
        ] {
            assert_eq!(strftime("%U %W %V %G", unix), expected, "{unix}");
        }
    }
}
