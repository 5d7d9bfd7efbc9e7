// Package bench measures speed and memory of the real commands, beside the tools
// that people would otherwise use, on the same registries in the same run. There
// is nothing in it but benchmarks: make bench.
package bench
