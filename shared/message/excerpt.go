package message

import (
	"fmt"
	"strconv"
)

// excerptBytes is how many bytes of an unreadable message are shown: enough to recognise
// it, and few enough for one line.
const excerptBytes = 128

// Excerpt returns the beginning of data, quoted: in ASCII, and without control characters.
func Excerpt(data []byte) string {
	if len(data) <= excerptBytes {
		return strconv.QuoteToASCII(string(data))
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.QuoteToASCII(string(data[:excerptBytes])), len(data))
}
