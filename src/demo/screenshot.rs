//! What is on a screen: reads X's own picture format, answers questions about it, writes PNG.
//! Everything here is pure but for saving; where the picture comes from is not known here, see `display`.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{self, BufWriter},
    ops::Range,
    path::Path,
};

use thiserror::Error;

/// A colour, eight bits each of red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// Whether no channel differs by more than `tolerance`: lossy links change colours a little.
    pub fn is_near(self, other: Self, tolerance: u8) -> bool {
        let channels = [(self.0, other.0), (self.1, other.1), (self.2, other.2)];
        channels.iter().all(|(a, b)| a.abs_diff(*b) <= tolerance)
    }
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// A picture of a whole screen.
#[derive(Clone, PartialEq, Eq)]
pub struct Screenshot {
    width: u32,
    height: u32,
    /// Row by row from the top, three bytes a pixel.
    bytes: Vec<u8>,
}

/// The bytes are no picture that we can read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum XwdError {
    /// The file ends before its picture does.
    #[error("the X window dump is cut off: {have} of {need} bytes")]
    CutOff {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the header promises.
        need: usize,
    },
    /// The header has values that no server we use writes.
    #[error("the X window dump is of an unknown kind ({what} is {value})")]
    Unknown {
        /// Field of the header.
        what: &'static str,
        /// Its value.
        value: u32,
    },
}

/// The header's 32-bit fields that we read, by their place in it.
mod field {
    pub const HEADER_SIZE: usize = 0;
    pub const FILE_VERSION: usize = 1;
    pub const PIXMAP_FORMAT: usize = 2;
    pub const WIDTH: usize = 4;
    pub const HEIGHT: usize = 5;
    pub const BYTE_ORDER: usize = 7;
    pub const BITS_PER_PIXEL: usize = 11;
    pub const BYTES_PER_LINE: usize = 12;
    pub const RED_MASK: usize = 14;
    pub const GREEN_MASK: usize = 15;
    pub const BLUE_MASK: usize = 16;
    pub const COLOURS: usize = 19;
    pub const COUNT: usize = 25;
}

/// Widest stroke of a letter, in pixels.
const LETTER: u32 = 12;
/// Strokes in a row of pixels that is part of a word. A cursor has one.
const STROKES: usize = 4;
/// Bytes of one entry of the colour table, which true-colour pictures carry without using it.
const COLOUR_ENTRY: usize = 12;

impl Screenshot {
    /// Reads the X window dump that Xvfb keeps in its frame buffer file: 32 bits a pixel, true colour.
    pub fn from_xwd(file: &[u8]) -> Result<Self, XwdError> {
        let need =
            |need: usize| if file.len() < need { Err(XwdError::CutOff { have: file.len(), need }) } else { Ok(()) };
        need(field::COUNT * 4)?;
        let header: Vec<u32> = file[..field::COUNT * 4].chunks_exact(4).map(big_endian).collect();
        for (what, place, known) in [
            ("version", field::FILE_VERSION, 7),
            ("pixmap format", field::PIXMAP_FORMAT, 2),
            ("bits per pixel", field::BITS_PER_PIXEL, 32),
        ] {
            if header[place] != known {
                return Err(XwdError::Unknown { what, value: header[place] });
            }
        }
        let (width, height) = (header[field::WIDTH], header[field::HEIGHT]);
        let line = header[field::BYTES_PER_LINE] as usize;
        if line < width as usize * 4 {
            return Err(XwdError::Unknown { what: "bytes per line", value: header[field::BYTES_PER_LINE] });
        }
        let start = header[field::HEADER_SIZE] as usize + header[field::COLOURS] as usize * COLOUR_ENTRY;
        let end = start.saturating_add(line.saturating_mul(height as usize));
        need(end)?;
        let word = if header[field::BYTE_ORDER] == 0 { little_endian } else { big_endian };
        let masks = [field::RED_MASK, field::GREEN_MASK, field::BLUE_MASK].map(|place| header[place]);
        let mut bytes = Vec::with_capacity(width as usize * height as usize * 3);
        for row in file[start..end].chunks_exact(line.max(1)) {
            for pixel in row[..width as usize * 4].chunks_exact(4).map(word) {
                bytes.extend(masks.map(|mask| channel(pixel, mask)));
            }
        }
        Ok(Self { width, height, bytes })
    }

    /// A picture made up, row by row from the top, three bytes a pixel.
    #[cfg(test)]
    pub fn of(width: u32, height: u32, bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len(), width as usize * height as usize * 3);
        Self { width, height, bytes }
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The colour at a place counted from the upper left corner, `None` outside the picture.
    pub fn pixel(&self, x: u32, y: u32) -> Option<Rgb> {
        if x >= self.width {
            return None;
        }
        let start = (y as usize * self.width as usize + x as usize) * 3;
        let [r, g, b] = *self.bytes.get(start..start + 3)?.first_chunk()?;
        Some(Rgb(r, g, b))
    }

    /// Every pixel, row by row.
    pub fn pixels(&self) -> impl Iterator<Item = Rgb> {
        self.bytes.chunks_exact(3).map(|p| Rgb(p[0], p[1], p[2]))
    }

    /// The share (0 to 1) of pixels that are near `colour`.
    pub fn share_of(&self, colour: Rgb, tolerance: u8) -> f64 {
        let near = self.pixels().filter(|pixel| pixel.is_near(colour, tolerance)).count();
        near as f64 / (self.bytes.len() / 3).max(1) as f64
    }

    /// How many of these rows something is written in on a background of this colour: other colours, and the background
    /// again not farther than a letter is wide.
    pub fn written_rows(&self, background: Rgb, tolerance: u8, rows: Range<u32>) -> usize {
        let written = |row: &u32| {
            let mut strokes = 0;
            let mut last = None;
            for x in (0..self.width).filter(|x| self.pixel(*x, *row).is_some_and(|p| p.is_near(background, tolerance)))
            {
                let gap = last.replace(x).map_or(0, |last| x - last - 1);
                strokes += usize::from((1..=LETTER).contains(&gap));
            }
            strokes >= STROKES
        };
        rows.filter(written).count()
    }

    /// How many different colours there are.
    pub fn distinct_colours(&self) -> usize {
        self.pixels().collect::<HashSet<_>>().len()
    }

    /// Writes the picture as a PNG file.
    pub fn save_png(&self, path: &Path) -> io::Result<()> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        Ok(writer.finish()?)
    }
}

impl fmt::Debug for Screenshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Screenshot({} x {})", self.width, self.height)
    }
}

fn big_endian(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The eight bits of a pixel under `mask`.
fn channel(pixel: u32, mask: u32) -> u8 {
    let value = (pixel & mask).checked_shr(mask.trailing_zeros()).unwrap_or(0);
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dump of 2 × 2 pixels with a padded line, a header that is longer than needed and one unused colour.
    fn dump(byte_order: u32) -> Vec<u8> {
        let mut header = [0; field::COUNT];
        for (place, value) in [
            (field::HEADER_SIZE, 104),
            (field::FILE_VERSION, 7),
            (field::PIXMAP_FORMAT, 2),
            (field::WIDTH, 2),
            (field::HEIGHT, 2),
            (field::BYTE_ORDER, byte_order),
            (field::BITS_PER_PIXEL, 32),
            (field::BYTES_PER_LINE, 12),
            (field::RED_MASK, 0xff_0000),
            (field::GREEN_MASK, 0x00_ff00),
            (field::BLUE_MASK, 0x00_00ff),
            (field::COLOURS, 1),
        ] {
            header[place] = value;
        }
        let mut file: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        file.extend([0; 4 + COLOUR_ENTRY]);
        for pixel in [0x01_0203_u32, 0x0a_0b0c, 0xdead, 0xff_0000, 0x00_ff00, 0xbeef] {
            file.extend(if byte_order == 0 { pixel.to_le_bytes() } else { pixel.to_be_bytes() });
        }
        file
    }

    #[test]
    fn both_byte_orders_give_the_same_picture() {
        for byte_order in [0, 1] {
            let picture = Screenshot::from_xwd(&dump(byte_order)).unwrap();
            let pixels: Vec<_> = picture.pixels().collect();
            assert_eq!(pixels, [Rgb(1, 2, 3), Rgb(10, 11, 12), Rgb(255, 0, 0), Rgb(0, 255, 0)]);
            assert_eq!((picture.width(), picture.height()), (2, 2));
            assert_eq!(picture.pixel(1, 1), Some(Rgb(0, 255, 0)));
            assert_eq!((picture.pixel(2, 0), picture.pixel(0, 2)), (None, None));
        }
    }

    #[test]
    fn a_dump_that_is_cut_off_anywhere_is_refused() {
        let file = dump(0);
        for length in 0..file.len() {
            assert!(matches!(Screenshot::from_xwd(&file[..length]), Err(XwdError::CutOff { .. })), "{length}");
        }
    }

    #[test]
    fn a_dump_of_another_kind_is_refused() {
        let mut file = dump(0);
        file[field::BITS_PER_PIXEL * 4 + 3] = 16;
        let error = Screenshot::from_xwd(&file).unwrap_err();
        assert_eq!(error.to_string(), "the X window dump is of an unknown kind (bits per pixel is 16)");
    }

    #[test]
    fn colours_are_counted_with_tolerance() {
        let picture = Screenshot::from_xwd(&dump(0)).unwrap();
        assert_eq!(picture.share_of(Rgb(2, 2, 2), 1), 0.25);
        assert_eq!(picture.share_of(Rgb(2, 2, 2), 10), 0.5);
        assert_eq!(picture.distinct_colours(), 4);
    }

    /// A picture of one colour.
    fn plain(width: u32, height: u32, Rgb(r, g, b): Rgb) -> Screenshot {
        Screenshot::of(width, height, [r, g, b].repeat((width * height) as usize))
    }

    fn paint(picture: &mut Screenshot, x: u32, y: u32, Rgb(r, g, b): Rgb) {
        let start = (y as usize * picture.width as usize + x as usize) * 3;
        picture.bytes[start..start + 3].copy_from_slice(&[r, g, b]);
    }

    #[test]
    fn a_row_with_several_strokes_is_written_and_a_cursor_a_border_and_an_empty_one_are_not() {
        let (paper, ink) = (Rgb(14, 26, 43), Rgb(200, 200, 200));
        let mut picture = plain(100, 4, paper);
        // A word; a cursor; a border between two windows; nothing.
        (10..50).step_by(5).for_each(|x| paint(&mut picture, x, 0, ink));
        (10..20).for_each(|x| paint(&mut picture, x, 1, ink));
        (30..60).for_each(|x| paint(&mut picture, x, 2, ink));
        assert_eq!(picture.written_rows(paper, 6, 0..4), 1);
        assert_eq!(picture.written_rows(paper, 6, 1..4), 0);
    }

    #[test]
    fn the_png_has_the_same_pixels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shot.png");
        Screenshot::from_xwd(&dump(0)).unwrap().save_png(&path).unwrap();
        let mut reader = png::Decoder::new(io::BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 10, 11, 12, 255, 0, 0, 0, 255, 0]);
    }
}
