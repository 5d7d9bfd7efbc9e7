package command

import (
	"bytes"
	"encoding/json"
	"io"
)

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
	_, err = l.out.Write(append(bytes.Clone(line), '\n'))
	return err
}
