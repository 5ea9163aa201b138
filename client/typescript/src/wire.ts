/** Reading of the protobuf wire format, made for many small records. */

const BYTES_OF_A_SAFE_SUM = 8;
const LONGEST_VARINT = 10;
const LENGTH_DELIMITED = 2;

/**
 * How many bytes become text at once. A call into V8's decoder costs more than the bytes, so the texts of a record
 * are cut out of one string. This also bounds the memory that a kept text holds on to.
 */
const WINDOW_BYTES = 192;

/** Node's decoders as methods of its buffers: much faster for short texts than `toString`, which wraps them. */
interface Slices {
  latin1Slice(start: number, end: number): string;
  utf8Slice(start: number, end: number): string;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes are not the message that they should be. */
export class MalformedError extends Error {}

/** Returns the tag of a field whose content has a length: a string, bytes or a message. */
export function lengthDelimited(number: number): number {
  return (number << 3) | LENGTH_DELIMITED;
}

/** A position in encoded bytes. Every method reads at the position and moves it. */
export class WireReader {
  /** The text of the bytes from windowStart to windowEnd, if they are ASCII there. */
  private window = "";
  private windowStart = 0;
  private windowEnd = 0;

  /**
   * @param bytes - What to read.
   * @param pos - Where to start.
   * @param end - Where the message ends.
   */
  constructor(
    readonly bytes: Buffer,
    public pos = 0,
    public end = bytes.length,
  ) {}

  /**
   * Reads an unsigned number of up to 32 bits, a tag or a length.
   *
   * @throws MalformedError if there is none.
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
   * Reads an int64. One outside ±2^53 comes rounded, and still outside.
   *
   * @throws MalformedError if there is none.
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

  /** The same for numbers of 9 and 10 bytes: very large ones, and all below 0. */
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
   * Reads a length; returns where the content that begins at the position ends.
   *
   * @throws MalformedError if that is behind the end of the message.
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
   * @throws MalformedError if it is not UTF-8.
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
   * @throws MalformedError if the message ends before it does.
   */
  double(): number {
    const start = this.pos;
    this.advance(8);
    return this.bytes.readDoubleLE(start);
  }

  /**
   * Passes over the content of a field that nobody here knows.
   *
   * @throws MalformedError if there is no such content.
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
   * Reads a message inside this one.
   *
   * @param read - Reads it, with `end` set to its end, and stops there.
   * @throws MalformedError if `read` does, or stops elsewhere.
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
  // Much faster than TextDecoder, and shows bad bytes as U+FFFD, which may also be what was sent.
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
