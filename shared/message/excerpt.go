package message

import (
	"fmt"
	"strconv"
)

// excerptBytes is how many bytes are shown of a message that cannot be read: enough to
// tell whose it is, and one line.
const excerptBytes = 128

// Excerpt shows the beginning of what cannot be read, quoted: in ASCII, and without
// control characters.
func Excerpt(data []byte) string {
	if len(data) <= excerptBytes {
		return strconv.QuoteToASCII(string(data))
	}
	return fmt.Sprintf("%s… (%d bytes)", strconv.QuoteToASCII(string(data[:excerptBytes])), len(data))
}
