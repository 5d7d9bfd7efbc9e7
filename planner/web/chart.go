package web

import (
	"fmt"
	"html/template"
	"strings"
)

const (
	barWidth, barHeight     = 120, 8
	chartHeight, chartWidth = 48, 240
)

// bar draws a part of a whole. Screen readers skip it, because the text beside it says the same.
func bar(part, whole int) template.HTML { return drawBar(part, whole, "bar") }

// spentBar is a bar that warns if it is full.
func spentBar(part, whole int) template.HTML {
	if part >= whole {
		return drawBar(part, whole, "bar full")
	}
	return bar(part, whole)
}

func drawBar(part, whole int, class string) template.HTML {
	filled := 0
	if whole > 0 {
		filled = min(max(part, 0)*barWidth/whole, barWidth)
	}
	return template.HTML(fmt.Sprintf( //nolint:gosec // made of numbers and constants only
		`<svg class="%s" viewBox="0 0 %d %d" width="%d" height="%d" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="%d" height="%d" rx="2"/><rect class="fill" width="%d" height="%d" rx="2"/></svg>`,
		class, barWidth, barHeight, barWidth, barHeight, barWidth, barHeight, filled, barHeight))
}

// column is a value of a chart. A bad one is drawn as a failure.
type column struct {
	value int64
	bad   bool
}

// chart draws columns, the oldest first. Screen readers skip it, because the table says the same.
func chart(columns []column) template.HTML {
	var most int64 = 1
	for _, c := range columns {
		most = max(most, c.value)
	}
	width := chartWidth / max(len(columns), 30)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" preserveAspectRatio="none" aria-hidden="true">`, chartWidth, chartHeight)
	for i, c := range columns {
		if c.value == 0 {
			continue
		}
		height := max(c.value*(chartHeight-1)/most, 1)
		class := ""
		if c.bad {
			class = ` class="bad"`
		}
		fmt.Fprintf(&b, `<rect%s x="%d" y="%d" width="%d" height="%d"/>`, class,
			chartWidth-(len(columns)-i)*max(width, 1), chartHeight-height, max(width-1, 1), height)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // made of numbers only
}
