//go:build !race

package acceptance

var raceFlag []string
