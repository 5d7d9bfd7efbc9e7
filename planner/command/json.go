package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
)

func printJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(visible(data), '\n'))
	return err
}

// lineWriter prints values as JSON, one a line, those that differ from the last.
type lineWriter struct {
	out  io.Writer
	last []byte
}

func newLineWriter(out io.Writer) *lineWriter { return &lineWriter{out: out} }

func (l *lineWriter) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil || bytes.Equal(line, l.last) {
		return err
	}
	l.last = line
	_, err = l.out.Write(append(visible(line), '\n'))
	return err
}

// visible escapes characters that are valid in JSON but that a terminal would obey or hide:
// anyone can have put them at the broker. The value stays the same.
func visible(data []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(data) {
		switch {
		case unicode.IsPrint(r) || r == '\n':
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}
