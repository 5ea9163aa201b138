/** Reads the protobuf wire format. The reader is optimised for many small records. */

const BYTES_OF_A_SAFE_SUM = 8;
const LONGEST_VARINT = 10;
const LENGTH_DELIMITED = 2;

/**
 * The number of bytes that are decoded to text at once. A call of V8's decoder costs more than decoding the bytes, so
 * the texts of a record are substrings of one string. The limit also bounds the memory that a retained substring keeps.
 */
const WINDOW_BYTES = 192;

/** Undocumented methods of Node's buffers. For short texts they are much faster than `toString`, which calls them. */
interface Slices {
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The error for bytes that are not a valid message of the expected type. */
export class MalformedError extends Error {}

/** Returns the tag of a length-delimited field: a string, bytes or a message. */
export function lengthDelimited(number: number): number {
  return (number << 3) | LENGTH_DELIMITED;
}

/** Reads encoded bytes. Every method reads at the current position and moves it. */
export class WireReader {
  /** The text of the bytes from windowStart to windowEnd. It is valid only where the bytes are ASCII. */
  private window = "";
  private windowStart = 0;
  private windowEnd = 0;

  /**
   * @param bytes - The buffer that contains the message.
   * @param pos - The start of the message in the buffer.
   * @param end - The end of the message in the buffer.
   */
  constructor(
    readonly bytes: Buffer,
    public pos = 0,
    public end = bytes.length,
  ) {}

  /**
   * Reads an unsigned integer of up to 32 bits: a tag or a length.
   *
   * @throws MalformedError if the bytes are not such an integer.
   */
  uint32(): number {
    const byte = this.bytes[this.pos];
    if (byte !== undefined && byte < 0x80) {
      this.pos += 1;
      return byte;
    }
    const value = this.int64();
    if (value < 0 || value > 0xffff_ffff) {
      throw new MalformedError("a tag or length of more than 32 bits");
    }
    return value;
  }

  /**
   * Reads an int64. A value outside ±2^53 is rounded to another value outside ±2^53.
   *
   * @throws MalformedError if the bytes are not an int64.
   */
  int64(): number {
    const { bytes, pos } = this;
    let value = 0;
    let scale = 1;
    for (let index = pos; index < pos + BYTES_OF_A_SAFE_SUM; index++) {
      const byte = bytes[index];
      if (byte === undefined) {
        throw new MalformedError("a number is cut off");
      }
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.pos = index + 1;
        return value;
      }
      scale *= 0x80;
    }
    return this.longInt64();
  }

  /** Reads an int64 of 9 or 10 bytes: very large values, and all negative values. */
  private longInt64(): number {
    let value = 0n;
    for (let index = 0; index < LONGEST_VARINT; index++) {
      const byte = this.bytes[this.pos + index];
      if (byte === undefined) {
        break;
      }
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
      if (byte < 0x80) {
        this.pos += index + 1;
        return Number(BigInt.asIntN(64, value));
      }
    }
    throw new MalformedError("a number does not end");
  }

  /**
   * Reads a length, and returns the end of the content that follows it.
   *
   * @throws MalformedError if the content ends after the end of the message.
   */
  contentEnd(): number {
    const length = this.uint32();
    const end = this.pos + length;
    if (end > this.end) {
      throw new MalformedError("a field is longer than its message");
    }
    return end;
  }

  /**
   * Reads a string.
   *
   * @throws MalformedError if the string is not valid UTF-8.
   */
  text(): string {
    const end = this.contentEnd();
    const { bytes, pos: start } = this;
    this.pos = end;
    let bits = 0;
    for (let index = start; index < end; index++) {
      bits |= bytes[index] ?? 0;
    }
    if (bits >= 0x80) {
      return decodeUtf8(bytes, start, end);
    }
    if (end - start > WINDOW_BYTES) {
      return latin1(bytes, start, end);
    }
    if (start < this.windowStart || end > this.windowEnd) {
      this.windowStart = start;
      this.windowEnd = Math.min(start + WINDOW_BYTES, this.end);
      this.window = latin1(bytes, this.windowStart, this.windowEnd);
    }
    return this.window.substring(start - this.windowStart, end - this.windowStart);
  }

  /**
   * Reads a double.
   *
   * @throws MalformedError if the message ends before the double.
   */
  double(): number {
    const start = this.pos;
    this.advance(8);
    return this.bytes.readDoubleLE(start);
  }

  /**
   * Skips the content of an unknown field.
   *
   * @throws MalformedError if the content is incomplete, or its wire type is unknown.
   */
  skip(tag: number): void {
    switch (tag & 7) {
      case 0:
        this.int64();
        break;
      case 1:
        this.advance(8);
        break;
      case LENGTH_DELIMITED:
        this.pos = this.contentEnd();
        break;
      case 5:
        this.advance(4);
        break;
      default:
        throw new MalformedError(`a field of wire type ${tag & 7}`);
    }
  }

  private advance(count: number): void {
    this.pos += count;
    if (this.pos > this.end) {
      throw new MalformedError("a field is longer than its message");
    }
  }

  /**
   * Reads a nested message.
   *
   * @param read - Reads the nested message up to `end`, which is set to the end of that message.
   * @throws MalformedError if `read` throws it, or does not stop at the end of the nested message.
   */
  inside<T>(read: (reader: WireReader) => T): T {
    const outerEnd = this.end;
    const end = this.contentEnd();
    this.end = end;
    const value = read(this);
    if (this.pos !== end) {
      throw new MalformedError("a field is longer than its message");
    }
    this.end = outerEnd;
    return value;
  }
}

function latin1(bytes: Buffer, start: number, end: number): string {
  return (bytes as Buffer & Slices).latin1Slice(start, end);
}

function decodeUtf8(bytes: Buffer, start: number, end: number): string {
  // utf8Slice is much faster than TextDecoder, but replaces invalid bytes with U+FFFD. A valid text may also contain
  // U+FFFD, so TextDecoder checks such a text.
  const text = (bytes as Buffer & Slices).utf8Slice(start, end);
  if (text.includes("\ufffd")) {
    try {
      utf8.decode(bytes.subarray(start, end));
    } catch {
      throw new MalformedError("a string is not UTF-8");
    }
  }
  return text;
}
