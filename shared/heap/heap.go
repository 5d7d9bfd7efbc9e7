// Package heap makes the garbage collector run less often in a process with little memory.
package heap

import "os"

// reserve is how many bytes the heap may grow by, in addition to its own size, before it is collected.
// Most processes hold some 10 MB, and would spend a tenth of their CPU time on collecting.
const reserve = 16 << 20

// reserved counts for the pace of the garbage collector. It is neither read nor written, so the system
// gives it no memory.
var reserved []byte

// Reserve makes the garbage collector run as if the heap were larger by reserve. It does nothing if GOGC
// is set.
func Reserve() {
	if os.Getenv("GOGC") == "" {
		reserved = make([]byte, reserve)
	}
}
