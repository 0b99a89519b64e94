# The tiny guest that shows whether the processor really runs guests: it enters 64-bit mode with paging, counts for as long
# as a processor needs a tenth of a second for, uses what every kernel uses, and leaves QEMU with status 85. Where guests
# are interpreted it does not come to an end in time.
#
# `probe.bin` is made of it, which a test compares:
#   as --32 -o probe.o probe.s && ld -m elf_i386 -Ttext 0x100000 --oformat binary -o probe.bin probe.o

.code32
.text
.globl _start
_start:
header:                                 # Multiboot 1, with addresses because this is no ELF file
        .long   0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
        .long   header, header, 0, 0, entry

entry:                                  # 32-bit protected mode without paging
        movl    $0x200000, %edi         # three empty tables at 2 MiB
        xorl    %eax, %eax
        movl    $0xc00, %ecx
        cld
        rep stosl
        movl    $0x201003, 0x200000     # which map the first 2 MiB, where this program is, as one large page
        movl    $0x202003, 0x201000
        movl    $0x000083, 0x202000
        movl    $0x200000, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x620, %eax            # PAE, SSE
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x100, %eax            # EFER.LME
        wrmsr
        movl    %cr0, %eax
        andl    $0xfffffffb, %eax
        orl     $0x80000002, %eax       # paging
        movl    %eax, %cr0
        lgdt    gdtr
        ljmp    $8, $long

.code64
long:
        movl    $100000000, %ecx
1:      decl    %ecx
        jnz     1b
        pxor    %xmm0, %xmm0
        movups  %xmm0, cell(%rip)
        xorl    %eax, %eax
        xorl    %edx, %edx
        xorl    %ebx, %ebx
        lock cmpxchg16b cell(%rip)
        movb    $0x2a, %al              # device isa-debug-exit: status 2 * 0x2a + 1
        outb    %al, $0xf4
2:      hlt
        jmp     2b

.balign 8
gdt:    .quad   0, 0x00209a0000000000
gdtr:   .word   15
        .long   gdt
.balign 16
cell:   .quad   0, 0
